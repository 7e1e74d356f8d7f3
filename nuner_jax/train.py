"""`python -m nuner_jax.train`: pre-training, read top to bottom.

The step is a pure function of (state, batch), in step.py; everything here brings data to it and carries results away. Order in the
loop: save, then take the next batch, then step; so a checkpoint always stands before the batch that comes next.
"""

import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from nuner_jax import cli
from nuner_jax.config import TrainConfig, recipes
from nuner_jax.errors import InputError, NunerError, Preempted
from nuner_jax.files import held
from nuner_jax.memory import use_huge_pages
from nuner_jax.run import LENGTH, StopSignal, check_same, check_values, describe, is_due, make_folder, remember, resolve_steps

if TYPE_CHECKING:
    from nuner_jax.dataset.loader import Batches
    from nuner_jax.model.encoder import EncoderConfig
    from nuner_jax.step import Program

PROG = "nuner_jax.train"


def main(argv: list[str] | None = None) -> None:
    """Parses the command line and trains, or compiles only."""
    config = cli.parse(TrainConfig, argv, prog=PROG, recipes=recipes("train"), alternatives=LENGTH, check=check_values)

    def command() -> None:
        if config.compile_only:
            from nuner_jax.compile_only import compile_only

            compile_only(config)
            return
        try:
            train(config)
        except BrokenPipeError:
            raise
        except OSError as error:  # of storage, perhaps for a moment: launchers start such a run again, unlike one of bad input
            raise NunerError(f"{error}; the same command goes on from the last checkpoint") from error

    cli.run(command, PROG)


def train(config: TrainConfig) -> None:
    """One run, from the start or from its newest checkpoint.

    Raises InputError, Preempted, and NunerError on a loss or gradient that is not finite or a checkpoint that cannot be written.
    """
    started = time.perf_counter()

    # Devices first: nothing may touch JAX before the processes have found each other.
    from nuner_jax import flops, hardware, optim, parallel

    parallel.initialize(config.distributed)
    import jax

    from nuner_jax.checkpoint import Checkpoints
    from nuner_jax.dataset.loader import Batches, prefetched
    from nuner_jax.dataset.mixture import open_data
    from nuner_jax.model import hf
    from nuner_jax.pretrained import load_tokenizer, tokenizer_fingerprint
    from nuner_jax.step import Program
    from nuner_jax.tracking import NonFiniteError, Profile, StepClock, Tracker, Window

    stop = StopSignal() if jax.process_count() == 1 else None  # several processes agree through the checkpoint manager
    chief = jax.process_index() == 0

    # Data: what there is, how long the run is, and whether this command goes on with the run that is there.
    workdir = Path(config.workdir)
    data = open_data(config.data.path, config.data.weights)
    num_steps = resolve_steps(config, data.num_rows("train"))
    profile = Profile(config.profile, workdir / "profile", num_steps, active=chief)
    run = describe(config, data.manifest, num_steps)
    check_same(workdir, run, config.extend)
    start = workdir / "encoder"  # a run keeps what it needs of its encoder, and goes on without it
    start = str(start) if (workdir / "run.json").is_file() and (start / "source.json").is_file() else config.init_from
    tokenizer = load_tokenizer(start)
    if tokenizer_fingerprint(tokenizer) != data.manifest["tokenizer"]:
        raise InputError(f"{data.name}: made with another tokenizer than that of {config.init_from} (fingerprint differs)")

    # Model and programs.
    mesh = parallel.make_mesh(config.mesh)
    encoder_config = hf.load_config(start)
    if data.manifest["row_length"] > encoder_config.max_length:
        rows = f"rows of {data.manifest['row_length']} tokens"
        raise InputError(f"{data.name}: {rows}, but {config.init_from} has {encoder_config.max_length} positions")
    shards = parallel.local_shards(mesh)
    batches = Batches(
        data,
        "train",
        batch_size=config.batch_size,
        num_steps=num_steps,
        seed=config.seed,
        num_shards=parallel.num_data_shards(mesh),
        shards=shards,
        concept_group=config.data.concept_group,
        max_concepts=config.data.max_concepts,
        balance_rows=config.data.balance_rows,
        frequency_exponent=config.loss.frequency_exponent,
    )
    mask = cast("int | None", tokenizer.mask_token_id)
    program = Program.create(config, encoder_config, mesh, num_steps, mask, len(data.concepts))
    learning_rate = optim.schedule(config.optim, config.optim.learning_rate, num_steps)

    # State: the newest checkpoint of this run, else the encoder that init_from names.
    make_folder(workdir)
    lock = ExitStack()
    if jax.process_count() == 1:  # several find each other, or do not start
        lock.enter_context(held(workdir / "run.json"))
    checkpoints = Checkpoints(workdir, config.keep_checkpoints, config.keep_every_steps)
    first_step, trained_seconds = checkpoints.latest() or 0, 0.0
    if first_step:
        state, extra = checkpoints.restore(first_step, program.abstract_state)
        trained_seconds = extra["seconds"]
    else:
        state = program.init_state(hf.load_encoder(config.init_from)[1])
        if chief:
            hf.save_sidecar(workdir / "encoder", config.init_from)
    if chief:
        remember(workdir, run)
    if first_step >= num_steps:
        checkpoints.close()
        lock.close()
        if chief:
            print(f"{workdir} has its {num_steps} steps; nothing left to do (more steps: --extend)")
        return

    # The loop. Up to two steps are under way; the host waits for the one before the one it has just sent.
    tracker = Tracker(workdir, first_step, num_steps, active=chief)
    iterator = prefetched(batches, first_step, config.data.num_threads)
    clock = StepClock(program_start=started, trained_seconds=trained_seconds)
    costs = flops.training_costs(encoder_config, program.model.freeze_text, program.freeze_concept)
    device = hardware.of_kind(jax.devices()[0].device_kind)
    peak_flops = device and device.bf16_flops * jax.device_count()
    window = Window(costs, peak_flops)
    validation = batches.of_split("validation", config.eval_batches) if config.eval_batches else None

    def log(done: int) -> None:
        nonlocal window
        row = window.row() | {"train/learning_rate": float(jax.device_get(learning_rate(done - 1))), **clock.row()}
        tracker.write(done, row)
        window = Window(costs, peak_flops)

    try:
        for step in range(first_step, num_steps):
            window.begin()
            with clock.data():
                batch = parallel.put_batch(next(iterator), mesh, shards)
            profile.before(step + 1, clock)
            state, metrics = program.train_step(state, batch)
            window.add(step, metrics)
            clock.sent(metrics)
            done, last = step + 1, step + 1 == num_steps
            tracker.progress(done)
            profile.after(done, clock)
            stopping = checkpoints.stopping(done) if stop is None else bool(stop.name)
            logging = is_due(done, config.log_every_steps)
            saving = last or stopping or is_due(done, config.checkpoint_every_steps)
            saving = saving or (logging and checkpoints.is_late(config.checkpoint_every_minutes))

            if logging or saving:
                clock.wait()
                log(done)  # also refuses a loss or gradient that is not finite, so that no checkpoint holds what came of it
            if last or is_due(done, config.eval_every_steps):
                tracker.write(done, held_out_loss(validation, program, state["params"], mesh, shards))
            if is_due(done, config.probe_every_steps):
                tracker.write(done, few_shot_probe(program, encoder_config, tokenizer, state["params"], mesh))
            if saving:
                checkpoints.save(done, state, {"next_index": done, "seconds": clock.total()})
            if stopping and not last:
                checkpoints.wait()
                raise Preempted(f"stopped after step {done} of {num_steps}; the same command goes on from there")
    except NonFiniteError as error:
        rows = ", ".join(map(str, batches.order.indices(error.step)))
        good = checkpoints.latest()
        where = "none" if good is None else checkpoints.folder / str(good)
        raise NunerError(f"{error} (rows {rows} of the data set); last good checkpoint: {where}") from None
    finally:
        profile.close()
        clock.close()
        tracker.close()
        try:
            checkpoints.close()
        finally:
            lock.close()
    seconds = time.perf_counter() - started
    if chief:
        print(f"{num_steps} steps, {seconds:.0f} s; next: python -m nuner_jax.export --workdir {workdir} --out DIR")


def held_out_loss(
    validation: "Batches | None", program: "Program", params: Any, mesh: Any, shards: list[int]
) -> dict[str, float]:
    """Mean loss over batches of the validation split, always the same ones; empty without any."""
    from nuner_jax import parallel

    if validation is None:
        return {}
    losses = [program.eval_step(params, parallel.put_batch(validation[i], mesh, shards)) for i in range(len(validation))]
    return {"eval/loss": sum(float(loss) for loss in losses) / len(losses)}


def few_shot_probe(
    program: "Program", encoder_config: "EncoderConfig", tokenizer: Any, params: Any, mesh: Any
) -> dict[str, float]:
    """Macro token F1 of a linear head on the bundled tasks, k = 4: the curve that pre-training is for."""
    from nuner_jax import parallel
    from nuner_jax.evaluate.probe import probe

    text = parallel.to_host(params["text"], mesh)
    return probe(program.model.graph, text, tokenizer, encoder_config)


if __name__ == "__main__":
    use_huge_pages()
    main()
