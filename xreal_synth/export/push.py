"""The Hugging Face Hub as the place of an exported folder. The token is the Hub client's own: HF_TOKEN, or a login."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from xreal_synth.errors import StorageError
from xreal_synth.recipe.kinds import near
from xreal_synth.uris import is_loopback

if TYPE_CHECKING:
    from huggingface_hub import HfApi

KIND: Final = "dataset"
EMPTY: Final = frozenset({".gitattributes"})
"""Files of a dataset repository that nothing has been put into."""
LOGIN: Final = "hf auth login, or set HF_TOKEN to a token that may write"


def check_push(repo: str, *, public: bool) -> None:
    """Raises StorageError where `repo` could not be pushed to: no token or one that may not write there, no Hub to be
    reached, or a repository that holds files already or is seen by others than asked for."""
    from huggingface_hub.errors import RepositoryNotFoundError

    with _hub(repo) as api:
        _require_rights(repo, api.whoami())
        try:
            there = api.dataset_info(repo)
        except RepositoryNotFoundError:
            return
    files = {one.rfilename for one in there.siblings or ()} - EMPTY
    if files:
        raise StorageError(
            found=f"{repo} holds {min(files)} already",
            wanted="a new or empty dataset repository: an export replaces nothing",
            hint="give another name, or delete that repository on the Hub",
        )
    if there.private is public:
        raise StorageError(
            found=f"{repo} is there and {'private' if there.private else 'public'}",
            wanted=f"a {'public' if public else 'private'} repository, as asked for",
            hint="leave --public out" if public else "--public, if everyone may see the dataset",
        )


def _require_rights(repo: str, who: Mapping[str, Any]) -> None:
    """Raises StorageError for a token that only reads, and for an owner that its user is not."""
    if who.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise StorageError(found="a token that may only read", wanted=f"one that may write to {repo}", hint=LOGIN)
    owners = [who["name"], *(one["name"] for one in who.get("orgs", ()))]
    owner, slash, _ = repo.partition("/")
    if slash and owner not in owners:
        raise StorageError(
            found=f"{repo}, and the token is {who['name']}'s", wanted=f"a repository of {' or '.join(owners)}",
            hint=near(owner, owners) or f"--push {who['name']}/NAME",
        )  # fmt: skip


def push(folder: Path, repo: str, *, public: bool) -> str:
    """Makes the dataset repository and puts the folder into it in one commit; returns its address.

    Raises StorageError; the folder stays as it is.
    """
    with _hub(repo, hint=f"the export is whole: hf upload {repo} {folder} --repo-type {KIND}") as api:
        made = api.create_repo(repo, repo_type=KIND, private=not public, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder, repo_type=KIND, commit_message="Dataset of xreal-synth")
    return str(made)


@contextmanager
def _hub(repo: str, hint: str = "") -> Iterator[HfApi]:
    """The Hub's client; what it raises is one of our errors, without the token."""
    from huggingface_hub import HfApi, constants, get_token
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    http_error: type[Exception] = HfHubHTTPError.__mro__[1]  # of whichever client the library is built on
    token = get_token()
    if token is None:
        raise StorageError(
            found="no token for the Hugging Face Hub", wanted=f"one that may write to {repo}", hint=LOGIN
        )
    if constants.ENDPOINT.startswith("http://") and not is_loopback(constants.ENDPOINT):
        raise StorageError(
            found="HF_ENDPOINT is http:// on another machine, where the token would go in clear", wanted="https://",
            hint="set HF_ENDPOINT to an https:// address",
        )  # fmt: skip
    try:
        yield HfApi(token=token)
    except HFValidationError as error:
        raise StorageError(
            found=f"{repo} is no name of a repository", wanted="OWNER/NAME of letters, digits, -, _ and ."
        ) from error
    except (http_error, OSError, ValueError, RuntimeError) as error:
        cause = error.__cause__ if isinstance(error, RuntimeError) else error  # of a file's upload
        if isinstance(cause, HfHubHTTPError):
            status, why = cause.response.status_code, cause.server_message or cause.response.reason_phrase
            refused = status in (401, 403)
            raise StorageError(
                found=f"the Hub answered {status}: {why}".replace(token, "***"),
                wanted=f"a token that may write to {repo}" if refused else "a Hub that takes the files",
                hint=hint or (LOGIN if refused else "try again later"),
            ) from error
        raise StorageError(
            found=f"no answer of the Hub: {str(cause).partition(chr(10))[0]}".replace(token, "***"),
            wanted=f"{constants.ENDPOINT} within reach",
            hint=hint or "look at the connection, HF_ENDPOINT and HF_HUB_OFFLINE",
        ) from error
