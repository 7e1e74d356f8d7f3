"""`python -m nuner_jax.export`: a run, an encoder or a recogniser to a folder for others, verified before it appears."""

from nuner_jax import cli
from nuner_jax.config import ExportConfig
from nuner_jax.errors import InputError

PROG = "nuner_jax.export"


def main(argv: list[str] | None = None) -> None:
    """Parses the command line and exports."""
    config = cli.parse(ExportConfig, argv, prog=PROG)
    cli.run(lambda: export(config), PROG)


def export(config: ExportConfig) -> None:
    """Writes the folder that is asked for, verified, and uploads it if that is asked for too. Raises InputError, ExportError."""
    if config.push_to_hub:
        from nuner_jax.export.hub import check_name

        check_name(config.push_to_hub)  # before the work
    if config.format == "onnx":
        from nuner_jax.export.onnx import export_onnx

        if not config.model:
            raise InputError("format onnx: name an encoder folder or a recogniser, --model DIR (a run is exported as hf first)")
        out = export_onnx(config.model, config.out)
    elif config.model:
        from nuner_jax.export.token_classifier import export_token_classifier

        out = export_token_classifier(config.model, config.out)
    else:
        from nuner_jax.export.hf import export_run

        out = export_run(config)
    if config.push_to_hub:
        from nuner_jax.export.hub import push

        print(push(out, config.push_to_hub))


if __name__ == "__main__":
    main()
