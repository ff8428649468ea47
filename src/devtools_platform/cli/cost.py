"""`dev-tools cost`: what was spent on what, what is left, and what it would cost on a machine of one's own."""

import asyncio
from datetime import date
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any

import typer

from devtools_platform.app.costs import Machine, compare_recorded
from devtools_platform.cli.connection import AsJson, running_stack
from devtools_platform.cli.output import err, out, print_json
from devtools_platform.cli.stack import DataDir
from devtools_platform.core.errors import BadInput

app = typer.Typer(no_args_is_help=True, help="What tasks cost, and budgets.")


class By(str, Enum):  # noqa: UP042 - typer shows the values of this kind
    """What a line of the report is."""

    AGENT = "agent"
    MODEL = "model"
    TASK = "task"
    DAY = "day"
    ENVIRONMENT = "environment"


class Alternative(str, Enum):  # noqa: UP042 - typer shows the values of this kind
    SELF_HOSTED = "self-hosted"


Since = Annotated[str | None, typer.Option(help="First day, YYYY-MM-DD in UTC; the first of this month by default.")]
Until = Annotated[str | None, typer.Option(help="The day after the last one; tomorrow by default.")]


@app.command("report")
def report(
    by: Annotated[By, typer.Option(help="What a line stands for.")] = By.AGENT,
    since: Since = None,
    until: Until = None,
    compare: Annotated[Alternative | None, typer.Option(help="Also price the same tokens elsewhere.")] = None,
    machine_usd_per_hour: Annotated[float | None, typer.Option(min=0, help="For --compare: what one costs.")] = None,
    machine_input_tokens_per_s: Annotated[float | None, typer.Option(min=0.001, help="For --compare.")] = None,
    machine_output_tokens_per_s: Annotated[float | None, typer.Option(min=0.001, help="For --compare.")] = None,
    machine_max_load: Annotated[float, typer.Option(min=0.01, max=1, help="For --compare.")] = 0.6,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Tokens and cost from the ledger, and the fixed costs of your price file. An unknown cost is shown as unknown."""
    machine = None
    if compare is not None:
        machine = _machine(
            machine_usd_per_hour, machine_input_tokens_per_s, machine_output_tokens_per_s, machine_max_load
        )
    found = asyncio.run(running_stack(data_dir).read_costs(by.value, _day(since), _day(until)))
    compared = None if machine is None else compare_recorded(found, machine)
    if as_json:
        print_json({**found, "comparison": compared} if compared else found)
        return
    _show(found)
    if compared is not None:
        _show_comparison(compared)


@app.command("budgets")
def budgets(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """What was spent under each budget, this month's and those of tasks, the fullest first."""
    found = asyncio.run(running_stack(data_dir).list_budgets())
    if as_json:
        print_json(found)
        return
    for account in found:
        limit = "no limit" if account["limit_usd"] is None else f"of ${account['limit_usd']:.4f}"
        held = f", ${account['held_usd']:.4f} reserved" if account["held_usd"] else ""
        unpriced = f", {account['unpriced_calls']} calls of unknown price" if account["unpriced_calls"] else ""
        out.print(f"{account['key']:<40} ${account['spent_usd']:.4f} {limit}{held}{unpriced}", markup=False)
    if not found:
        err.print("Nothing was spent, and no call of unknown price was made.")


@app.command("reconcile")
def reconcile(
    day: Annotated[str | None, typer.Option(help="YYYY-MM-DD in UTC; yesterday by default.")] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Ask DigitalOcean what was used on a day, beside the ledger. Done nightly too. Exit code 1 when they differ."""
    found = asyncio.run(running_stack(data_dir).reconcile_costs(_day(day)))
    if as_json:
        print_json(found)
    else:
        _show_reconciled(found)
        if not found:
            err.print("DigitalOcean knows no managed agent of this stack, and of the account it tells only today.")
    if any(line["is_off"] for line in found):
        raise typer.Exit(1)


@app.command("prices")
def prices(
    refresh: Annotated[bool, typer.Option("--refresh", help="First read DigitalOcean's catalogue.")] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """The dated prices: of your file, and of DigitalOcean's catalogue as it was read. A price that is gone stays."""
    stack = running_stack(data_dir)
    if refresh:
        new = asyncio.run(stack.refresh_prices())
        err.print(f"{len(new)} prices are new.")
    found = asyncio.run(stack.list_prices())
    if as_json:
        print_json(found)
        return
    for price in found:
        amounts = f"${price['input_usd']:g} in, ${price['output_usd']:g} out a million tokens"
        since = price["since"] or "always"
        out.print(f"{price['provider']:<14} {price['model']:<34} {amounts}  {since}  {price['source']}", markup=False)
    if not found:
        err.print("None beside the tables we ship. `--refresh` reads DigitalOcean's; DEV_TOOLS_PRICES names your own.")


def _machine(usd: float | None, input_per_s: float | None, output_per_s: float | None, max_load: float) -> Machine:
    if usd is None or input_per_s is None or output_per_s is None:
        raise BadInput(
            "A comparison needs figures that nobody but you knows: what your machine costs and how fast it is.",
            hint="Give --machine-usd-per-hour, --machine-input-tokens-per-s and --machine-output-tokens-per-s.",
        )
    return Machine(Decimal(str(usd)), input_per_s, output_per_s, max_load)


def _day(text: str | None) -> str | None:
    """Raises `BadInput` for what is no day."""
    try:
        return None if text is None else date.fromisoformat(text).isoformat()
    except ValueError:
        raise BadInput(f"{text!r} is no day.", hint="Write it as YYYY-MM-DD.") from None


def _show(found: dict[str, Any]) -> None:
    out.print(f"{found['since']} to before {found['until']}, days in UTC", markup=False)
    for line in [*found["lines"], found["total"]]:
        tokens = f"{line['input_tokens']:>10} + {line['output_tokens']:<9}"
        failed = f"  {line['failed_calls']} failed" if line["failed_calls"] else ""
        out.print(f"{line['key']:<40} {line['calls']:>6} calls {tokens} tokens  {_cost(line)}{failed}", markup=False)
    for item in found["fixed"]:
        out.print(f"{item['name']:<40} fixed ({item['kind']})  ${item['usd']:.2f}  {item['source']}", markup=False)
    _show_reconciled(found["reconciled"])
    whole = "unknown" if found["all_usd"] is None else f"${found['all_usd']:.4f}"
    out.print(f"{'model calls and fixed costs':<40} {whole}", markup=False)


def _show_reconciled(lines: list[dict[str, Any]]) -> None:
    for line in lines:
        if line["subject"] == "account":
            told, missing = (_usd(line[name]) for name in ("said_usd", "missing_usd"))
            ours = f"the ledger with fixed costs {_usd(line['recorded_usd'])}, difference {missing}"
            out.print(f"{line['provider']} on {line['day']}: the account's month so far {told}; {ours}", markup=False)
        else:
            told, ours, missing = (_tokens(line[name]) for name in ("said_tokens", "recorded_tokens", "missing_tokens"))
            mark = "  OFF" if line["is_off"] else ""
            text = f"{line['subject']} used {told} tokens; the ledger has {ours}, difference {missing}{mark}"
            out.print(f"{line['provider']} on {line['day']}: {text}", markup=False)


def _usd(amount: float | None) -> str:
    return "unknown" if amount is None else f"${amount:.2f}"


def _tokens(count: int | None) -> str:
    return "unknown" if count is None else str(count)


def _cost(line: dict[str, Any]) -> str:
    if line["cost_usd"] is not None:
        return f"${line['cost_usd']:.4f}"
    return f"unknown: {line['unpriced_calls']} calls without a price, the others ${line['priced_usd']:.4f}"


def _show_comparison(compared: dict[str, Any]) -> None:
    recorded, saving = compared["recorded_usd"], compared["saving_share"]
    out.print("\nself-hosted instead, under these assumptions:")
    for assumption in compared["assumptions"]:
        out.print(f"  - {assumption}", markup=False)
    out.print(f"  recorded     {'unknown' if recorded is None else f'${recorded:.4f}'}", markup=False)
    out.print(f"  self-hosted  ${compared['self_hosted_usd']:.4f}", markup=False)
    out.print(f"  saving       {'unknown' if saving is None else f'{saving:.1%}'}", markup=False)
