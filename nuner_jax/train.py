"""`python -m nuner_jax.train`: contrastive pre-training, read top to bottom.

The step is a pure function of (state, batch); everything else here brings data to it and carries results away. Order in the loop:
save, then take the next batch, then step; so a checkpoint always stands before the batch that comes next.
"""

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nuner_jax import cli
from nuner_jax.config import TrainConfig, recipes
from nuner_jax.errors import InputError, NunerError, Preempted
from nuner_jax.schema import write_json_lines

if TYPE_CHECKING:
    import jax
    import optax

    from nuner_jax.dataset.loader import Batches, PackedDataset
    from nuner_jax.model.two_tower import Batch, TwoTower

PROG = "nuner_jax.train"
State = dict[str, Any]
Metrics = dict[str, "jax.Array"]

# Keys that change no number of a run: a run may be resumed with others.
FREE_KEYS = {"workdir", "log_every_steps", "eval_every_steps", "eval_batches", "probe_every_steps", "checkpoint_every_steps"}
FREE_KEYS |= {"keep_checkpoints", "extend", "data.path", "data.num_threads", "mesh"}


def main(argv: list[str] | None = None) -> None:
    """Parses the command line and trains."""
    steps_or_epochs = ("num_train_steps", "num_epochs")
    config = cli.parse(TrainConfig, argv, prog=PROG, recipes=recipes("train"), alternatives=steps_or_epochs)
    cli.run(lambda: train(config), PROG)


def make_train_step(
    model: "TwoTower", tx: "optax.GradientTransformation", seed: int
) -> Callable[[State, "Batch"], tuple[State, Metrics]]:
    """(state, batch) -> (state, metrics), pure: one update of the trained parameters. state: {"params", "opt_state", "step"}."""
    import jax
    import optax

    from nuner_jax.model.two_tower import combine, partition

    def train_step(state: State, batch: "Batch") -> tuple[State, Metrics]:
        trained, frozen = partition(state["params"], model.is_trained)
        key = jax.random.fold_in(jax.random.key(seed), state["step"]) if model.config.dropout else None

        def loss_fn(trained: Any) -> tuple["jax.Array", Metrics]:
            return model.loss(combine(trained, frozen), batch, key)

        grads, metrics = jax.grad(loss_fn, has_aux=True)(trained)
        updates, opt_state = tx.update(grads, state["opt_state"], trained)
        trained = optax.apply_updates(trained, updates)
        metrics["grad_norm"] = optax.tree.norm(grads)
        return {"params": combine(trained, frozen), "opt_state": opt_state, "step": state["step"] + 1}, metrics

    return train_step


def train(config: TrainConfig) -> None:
    """One run, from the start or from its newest checkpoint. Raises InputError, Preempted; NunerError on a non-finite loss."""
    started = time.perf_counter()
    stop = StopSignal()

    # Data: what there is, and how long the run is.
    from nuner_jax.dataset.loader import Batches, PackedDataset, prefetched
    from nuner_jax.pretrained import load_tokenizer, tokenizer_fingerprint

    workdir = Path(config.workdir)
    data = PackedDataset(config.data.path)
    num_steps = resolve_steps(config, data.num_rows("train"))
    run = describe_run(config, data, num_steps)
    check_same_run(workdir, run, config.extend)
    if tokenizer_fingerprint(load_tokenizer(config.init_from)) != data.manifest["tokenizer"]:
        raise InputError(
            f"{config.data.path}: tokenised with another tokenizer than that of {config.init_from} (fingerprint differs)"
        )

    # Devices and model.
    import jax

    from nuner_jax import optim, parallel
    from nuner_jax.checkpoint import Checkpoints
    from nuner_jax.model import hf
    from nuner_jax.model.two_tower import TwoTower, partition
    from nuner_jax.tracking import NonFiniteError, Tracker, Window

    mesh = parallel.make_mesh(config.mesh)
    shards = parallel.num_data_shards(mesh)
    batches = Batches(
        data,
        "train",
        batch_size=config.batch_size,
        num_steps=num_steps,
        seed=config.seed,
        num_shards=shards,
        concept_group=config.data.concept_group,
        max_concepts=config.data.max_concepts,
    )
    encoder_config, encoder_params, _ = hf.load_encoder(config.init_from)
    model = TwoTower.create(encoder_config, config.model, mesh)
    if data.manifest["row_length"] > encoder_config.max_length:
        raise InputError(
            f"rows of {data.manifest['row_length']} tokens, but {config.init_from} has {encoder_config.max_length} positions"
        )
    tx = optim.optimizer(config.optim, num_steps)
    learning_rate = optim.schedule(config.optim, config.optim.learning_rate, num_steps)

    def init_state() -> State:
        params = model.init(jax.tree.map(jax.numpy.asarray, encoder_params))
        return {"params": params, "opt_state": tx.init(partition(params, model.is_trained)[0]), "step": jax.numpy.int32(0)}

    abstract = jax.eval_shape(init_state)
    shardings = parallel.param_shardings(abstract, mesh)
    batch_sharding = jax.NamedSharding(mesh, parallel.BATCH)
    replicated = jax.NamedSharding(mesh, jax.P())
    train_step = jax.jit(
        make_train_step(model, tx, config.seed),
        in_shardings=(shardings, batch_sharding),
        out_shardings=(shardings, replicated),
        donate_argnums=0,
    )
    eval_step = jax.jit(lambda params, batch: model.loss(params, batch)[1], out_shardings=replicated)

    # State: the newest checkpoint of this run, else the encoder that init_from names.
    workdir.mkdir(parents=True, exist_ok=True)
    checkpoints = Checkpoints(workdir, config.keep_checkpoints)
    newest = checkpoints.latest()
    if newest is not None:
        like = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings)
        state, _ = checkpoints.restore(newest, like)
        first_step = newest
    else:
        state = jax.device_put(init_state(), shardings)
        first_step = 0
        hf.save_sidecar(workdir / "encoder", config.init_from)
    write_json_lines(workdir / "run.json", [run])
    if first_step >= num_steps:
        print(f"{workdir} has its {num_steps} steps; nothing left to do (more steps: --extend)")
        return

    # The loop.
    tracker = Tracker(workdir, first_step, num_steps, active=jax.process_index() == 0)
    iterator = prefetched(batches, first_step, config.data.num_threads)
    window, due = Window(), None  # `due` is logged one step later, so that the host never waits for the step it has just sent

    def log(done: int, window: Window) -> None:
        tracker.write(done, window.row() | {"train/learning_rate": float(learning_rate(done - 1))})

    try:
        for step in range(first_step, num_steps):
            state, metrics = train_step(state, parallel.put_batch(next(iterator), mesh))
            window.add(step, metrics)
            done, last = step + 1, step + 1 == num_steps
            if due is not None:
                log(*due)
                due = None
            if done % config.log_every_steps == 0 or last:
                due, window = (done, window), Window()
            tracker.progress(done)

            if is_due(done, config.eval_every_steps) or last:
                tracker.write(done, held_out_loss(config, data, batches, mesh, eval_step, state["params"]))
            if is_due(done, config.checkpoint_every_steps) or last or stop.requested:
                if due is not None:
                    log(*due)
                    due = None
                if window.steps:
                    window.row()  # a checkpoint never holds what came out of a non-finite step
                checkpoints.save(done, state, {"next_index": done, "seconds": time.perf_counter() - started})
            if stop.requested and not last:
                checkpoints.wait()
                raise Preempted(f"stopped by {stop.name} after step {done} of {num_steps}; the same command goes on from there")
    except NonFiniteError as error:
        rows = ", ".join(map(str, batches.order(error.step)))
        good = checkpoints.latest()
        raise NunerError(
            f"{error} (rows {rows}); last good checkpoint: {'none' if good is None else checkpoints.folder / str(good)}"
        ) from None
    finally:
        tracker.close()
        checkpoints.close()
    print(
        f"{num_steps} steps in {time.perf_counter() - started:.0f} s; export with: python -m nuner_jax.export --workdir {workdir} --out DIR"
    )


def held_out_loss(
    config: TrainConfig, data: "PackedDataset", batches: "Batches", mesh: Any, eval_step: Any, params: Any
) -> dict[str, float]:
    """Mean loss over the first batches of the validation split, always the same ones; empty without such a split."""
    from nuner_jax import parallel

    validation = batches.of_split("validation", num_batches=config.eval_batches)
    if validation is None:
        return {}
    losses = [eval_step(params, parallel.put_batch(validation[i], mesh))["loss"] for i in range(len(validation))]
    return {"eval/loss": sum(float(loss) for loss in losses) / len(losses)}


def is_due(done: int, every: int) -> bool:
    """Whether something that happens every so many steps (0: never) happens now."""
    return every > 0 and done % every == 0


def resolve_steps(config: TrainConfig, num_rows: int) -> int:
    """The length of the run in steps. Raises InputError if it is below one."""
    steps = config.num_train_steps
    if steps is None:
        steps = max(1, round((config.num_epochs or 0) * num_rows / config.batch_size))
    if steps < 1 or (config.num_epochs or 1) <= 0:
        raise InputError(f"the run has {steps} steps (num_train_steps {config.num_train_steps}, num_epochs {config.num_epochs})")
    return steps


class StopSignal:
    """SIGTERM and Ctrl-C ask for a checkpoint and a clean end at the next step; a second one ends at once."""

    def __init__(self) -> None:
        self.name = ""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    @property
    def requested(self) -> bool:
        """Whether a signal has come."""
        return bool(self.name)

    def _handle(self, number: int, frame: Any) -> None:
        del frame
        self.name = signal.Signals(number).name
        signal.signal(number, signal.SIG_DFL)


def describe_run(config: TrainConfig, data: "PackedDataset", num_steps: int) -> dict[str, Any]:
    """What a run directory remembers, to refuse a resume that would change numbers."""
    from nuner_jax import __version__

    return {
        "nuner_jax": __version__,
        "num_steps": num_steps,
        "data": data.manifest["fingerprint"],
        "tokenizer": data.manifest["tokenizer"],
        "config": cli.as_dict(config),
    }


def check_same_run(workdir: Path, now: dict[str, Any], extend: bool) -> None:
    """Raises InputError that names the first key by which this command differs from the run in `workdir`."""
    path = workdir / "run.json"
    if not path.is_file():
        return
    try:
        before = json.loads(path.read_text(encoding="utf8"))
        old, new = flat(before["config"]), flat(now["config"])
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path}: not the description of a run") from None
    for what in ("data", "tokenizer"):
        if before[what] != now[what]:
            raise InputError(
                f"{workdir}: this run was trained on another {'data set' if what == 'data' else what} (fingerprint differs)"
            )
    for key in sorted(new):
        free = key in FREE_KEYS or key.split(".")[0] in FREE_KEYS or key in ("num_train_steps", "num_epochs")
        if old.get(key) != new[key] and not free:
            raise InputError(f"{workdir}: this run has {key} {old.get(key)}, not {new[key]}; use another workdir")
    if before["num_steps"] != now["num_steps"] and not (extend and now["num_steps"] > before["num_steps"]):
        hint = "allow it with --extend" if now["num_steps"] > before["num_steps"] else "use another workdir"
        raise InputError(f"{workdir}: this run has {before['num_steps']} steps, not {now['num_steps']}; {hint}")


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested dict with dotted keys."""
    rows: dict[str, Any] = {}
    for key, value in tree.items():
        rows |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return rows


if __name__ == "__main__":
    main()
