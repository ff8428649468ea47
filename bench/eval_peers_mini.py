"""mini-swe-agent's side of `eval_peers.py`, in an environment that has it and not us. Prints what it used as JSON.

Its own default agent and text-based prompts, with its own limits of steps and seconds. It looks at the clock between
calls only, so an alarm ends a call that outlasts the time; what the answered calls used is told in any case.
"""

import argparse
import json
import signal
from pathlib import Path

import yaml
from minisweagent import package_dir
from minisweagent.agents.default import DefaultAgent
from minisweagent.environments.local import LocalEnvironment
from minisweagent.models.litellm_textbased_model import LitellmTextbasedModel

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--seconds", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("task")
    given = parser.parse_args()
    config = yaml.safe_load((package_dir / "config" / "mini_textbased.yaml").read_text())
    known = {name: config["agent"][name] for name in ("system_template", "instance_template")}
    model = LitellmTextbasedModel(
        **{k: v for k, v in config["model"].items() if k not in {"model_name", "model_kwargs"}},
        model_name=f"openai/{given.model}",
        model_kwargs={
            "api_base": given.url,
            "api_key": given.key,
            "temperature": 0.0,
            "max_tokens": 1024,
            "timeout": given.seconds,
        },
        cost_tracking="ignore_errors",
    )
    environment = LocalEnvironment(cwd=str(given.folder), timeout=30)
    agent = DefaultAgent(model, environment, **known, step_limit=given.steps, wall_time_limit_seconds=given.seconds)
    ended = ""
    signal.signal(signal.SIGALRM, signal.default_int_handler)  # the one exception that its retries let through
    signal.alarm(given.seconds)
    try:
        ended = str(agent.run(given.task).get("exit_status", ""))
    except KeyboardInterrupt:
        ended = "TimeExceeded"
    except Exception as error:  # noqa: BLE001 - how it ends is a result
        ended = type(error).__name__
    uses = [m["extra"]["response"]["usage"] for m in agent.messages if "response" in m.get("extra", {})]
    tokens = {name: sum(use.get(name) or 0 for use in uses) for name in ("prompt_tokens", "completion_tokens")}
    print(json.dumps({"ended": ended, "calls": agent.n_calls, **tokens}))
