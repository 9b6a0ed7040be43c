"""The hub that a model goes to: asked before training begins, sent checkpoints while it goes on."""

from __future__ import annotations

import logging
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any, Literal

from ..errors import FlexEditError

Every = Literal["end", "checkpoint"]  # when something is sent
CHECKPOINTS = "checkpoints"  # the folder in the repository that has the last one of each stage

log = logging.getLogger(__name__)


class Hub:
    """One repository, which is private when it is new."""

    def __init__(self, repo: str, every: Every = "end") -> None:
        """Raises FlexEditError for a name that cannot be one, and where nobody may write."""
        from huggingface_hub import HfApi

        self.api, self.every = HfApi(), every
        try:
            token = self.api.whoami().get("auth", {}).get("accessToken", {})
            if token.get("role") == "read":
                raise PermissionError("the token may only read")
            made = self.api.create_repo(repo, exist_ok=True, private=True)
        except Exception as error:  # the hub's errors share no base, nor do those of its connection
            raise FlexEditError(
                f"{repo} cannot be written on the hub ({said(error)}). Log in by hf auth login "
                "with a token that may write, and name it as NAME/MODEL; or remove --push-to-hub."
            ) from error
        self.repo, self.address = made.repo_id, str(made)
        self.sending: tuple[Path, Future[Any]] | None = None

    @property
    def reads(self) -> Path | None:
        """The checkpoint that is being sent, which has to stay"""
        return self.sending[0] if self.sending and not self.sending[1].done() else None

    def send(self, checkpoint: Path) -> None:
        """Sends a checkpoint, in the background, in place of the one before of its stage. While one
        is on its way, the next is left out.
        """
        if self.reads is not None:
            log.info("%s is not sent: %s still is.", checkpoint, self.reads.name)
            return
        self.finish()
        future = self.api.upload_folder(
            repo_id=self.repo,
            folder_path=checkpoint.parent,
            path_in_repo=f"{CHECKPOINTS}/{checkpoint.parent.name}",
            allow_patterns=[f"{checkpoint.name}/*"],
            delete_patterns=["*"],
            commit_message=f"{checkpoint.parent.name}: {checkpoint.name}",
            run_as_future=True,
        )
        self.sending = checkpoint, future

    def finish(self) -> None:
        """Waits for what is being sent; that it failed is no reason to stop."""
        if self.sending is None:
            return
        (checkpoint, future), self.sending = self.sending, None
        wait([future])
        if error := future.exception():
            log.warning("%s could not be sent to the hub: %s", checkpoint, said(error))

    def push(self, model: Path) -> str:
        """Sends a model folder → its address. Raises FlexEditError where that fails."""
        self.finish()
        try:
            self.api.upload_folder(repo_id=self.repo, folder_path=model)
        except Exception as error:
            raise FlexEditError(
                f"{self.repo} could not be written on the hub ({said(error)}). The model is in "
                f"{model}; hf upload {self.repo} {model} tries again."
            ) from error
        return self.address


def said(error: BaseException) -> str:
    """The first line of what went wrong."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
