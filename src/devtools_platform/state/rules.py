"""The approval rules of a stack, from a file."""

from importlib import resources
from pathlib import Path

import yaml
from pydantic import ValidationError

from devtools_platform.core.approvals import ApprovalRules
from devtools_platform.core.errors import BadInput


def load_rules(file: Path | None) -> ApprovalRules:
    """The rules of `file`, or those we ship. Raises `BadInput` naming the first thing that is wrong in it."""
    try:
        text = (
            file.read_text()
            if file
            else resources.files("devtools_platform.state").joinpath("approvals.yaml").read_text()
        )
        return ApprovalRules.model_validate(yaml.safe_load(text))
    except OSError as error:
        raise BadInput(f"The approval rules {str(file)!r} cannot be read: {error.strerror}.", hint=_HINT) from None
    except yaml.YAMLError as error:
        raise BadInput(f"The approval rules {str(file)!r} are no YAML: {error}", hint=_HINT) from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadInput(f"The approval rules {str(file)!r}: {where}: {first['msg']}.", hint=_HINT) from None


_HINT = "See DEV_TOOLS_APPROVAL_RULES in docs/reference/settings.md, or unset it to use the shipped rules."
