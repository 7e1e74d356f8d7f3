"""Upload of a verified folder to the Hugging Face hub, in one commit."""

import re
from pathlib import Path

from nuner_jax.errors import InputError, NunerError

NAME = re.compile(r"[\w.-]+/[\w.-]+")


class HubError(NunerError):
    """The hub did not take the folder, which stays where it was written."""


def check_name(name: str) -> None:
    """Raises InputError unless this is OWNER/NAME."""
    if not NAME.fullmatch(name):
        raise InputError(f"push_to_hub {name!r}: expected OWNER/NAME")


def push(folder: Path, name: str) -> str:
    """Makes the repository if it is not there and uploads all files; returns its address. Raises HubError."""
    import huggingface_hub

    api = huggingface_hub.HfApi()
    try:
        address = str(api.create_repo(name, exist_ok=True))
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Upload by nuner_jax")
    except Exception as error:  # the hub's errors share no base class
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise HubError(f"{folder} is written, but {name} could not be uploaded to the hub: {reason}") from None
    return address
