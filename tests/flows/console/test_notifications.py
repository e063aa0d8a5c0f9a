"""Real servers on loopback are told in time; one that does not answer holds nothing up, and no secret is repeated."""

import importlib
import io
import logging
import socket
import time
import uuid
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from datasets.errors import InputError
from flows.config import load
from flows.config.notify_config import NotifyConfig
from flows.console import notifications
from flows.console.notifications import Notice
from pipelines.registry import ModelVersion
from tests.flows.command import stemline
from tests.web_receiver import receiver

VERSION = ModelVersion(name="stemline", version="3", run_id="r", run_key="k", digest="d")
NOTICE = Notice(
    event="promotion", model="stemline", version="3", sentence="It is <!channel> the \x1b[31mchampion @here"
)
CONFIG = NotifyConfig(wait_s=5.0)


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (notifications.ADDRESSES, notifications.PREFECT, "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)


def test_a_service_is_told_in_a_sentence_that_calls_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    assert notifications.send(CONFIG, NOTICE) == ""  # nobody is to be told
    with receiver() as (address, posted):
        monkeypatch.setenv(notifications.ADDRESSES, f"json://user:secret@{address}/hook")
        assert notifications.send(CONFIG, NOTICE) == ""
        assert notifications.send(replace(CONFIG, on=("failure",)), NOTICE) == ""
        assert notifications.targets(CONFIG) == ["json://"]
        (message,) = posted
    assert message["title"] == "stemline stemline: new champion"
    assert message["message"] == "It is ‹!channel› the \\x1b[31mchampion ＠here"


def test_a_service_that_does_not_answer_costs_the_wait_and_is_named_without_its_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute, receiver() as (address, posted):
        # It accepts and says nothing; Apprise alone would wait for a minute.
        silent = f"json://me:secret@127.0.0.1:{mute.getsockname()[1]}/?rto=60&cto=60"
        monkeypatch.setenv(notifications.ADDRESSES, f"{silent} json://{address}")
        began = time.monotonic()
        problem = notifications.send(replace(CONFIG, wait_s=0.5), NOTICE)
        assert time.monotonic() - began < 10
        assert problem == "not told: json:// (1): no answer within 0.5 s"
        assert len(posted) == 1
    monkeypatch.setenv(notifications.ADDRESSES, "json://127.0.0.1:9/secret")
    assert notifications.send(CONFIG, NOTICE) == "not told: json:// (1): OSError"


def test_a_plug_in_is_told_and_one_that_fails_is_named_without_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lab_notify.py").write_text(
        "told = []\ndef tell(notice): told.append((notice.event, notice.body))\n"
        "def fail(notice): raise OSError('secret')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    config = replace(CONFIG, plugins=("lab_notify:tell", "lab_notify:fail"))
    problem = notifications.send(config, NOTICE)
    assert problem.startswith("not told: lab_notify:fail: notifier plug-in 'lab_notify:fail'")
    assert problem.endswith("raised OSError; mend it, or name another with notify.plugins")
    assert importlib.import_module("lab_notify").told == [("promotion", NOTICE.body)]
    assert notifications.targets(config) == ["lab_notify:tell", "lab_notify:fail"]
    with pytest.raises(InputError, match=r"notify\.plugins: no notifier 'pager'; there are: none"):
        notifications.notifiers(replace(CONFIG, plugins=("pager",)))


def test_what_is_told_of_a_decision_a_failure_a_schedule_and_drift(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@mlflow.test:5000")
    config = load("smoke", ["store.root=STORE"])
    promoted = notifications.of_decision(config, VERSION, promoted=True, reason="It scores +0.4 dB.")
    assert promoted.body.splitlines()[:2] == [
        "models:/stemline/3 is the champion now: It scores +0.4 dB.",
        "http://mlflow.test:5000/#/models/stemline/versions/3",
    ]
    assert promoted.body.splitlines()[2].startswith("stemline card models:/stemline/3 store.root=")
    refused = notifications.of_decision(config, VERSION, promoted=False, reason="0.2 dB worse.")
    assert (refused.event, refused.sentence) == ("refusal", "models:/stemline/3 was not promoted: 0.2 dB worse.")
    failure = notifications.of_failure(config, "stemline train", "out of memory\nTraceback")
    assert failure.sentence == "stemline train failed: out of memory"
    missed = notifications.of_missed(config, datetime(2026, 11, 30, 3, tzinfo=UTC))
    assert "the last due at 2026-11-30 03:00 UTC" in missed.sentence


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"on": ("promotions",)}, "notify.on names 'promotions'; there are promotion, refusal"),
        ({"block": "https://hooks.slack.test/T/secret"}, "belong into STEMLINE_NOTIFY"),
        ({"wait_s": 0.0}, "notify.wait_s"),
    ],
)
def test_settings_that_cannot_be_are_refused_and_secrets_are_none_of_them(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        NotifyConfig(**settings)
    assert "hooks.slack" not in str(caught.value)


def test_an_address_that_is_none_is_refused_without_being_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = f"store.root={tmp_path}"
    answer = stemline("notify", where)
    assert (answer.code, "nobody would be told: set STEMLINE_NOTIFY" in answer.err) == (2, True)
    monkeypatch.setenv(notifications.ADDRESSES, "nonsense://token-of-mine")
    answer = stemline("notify", where)
    assert (answer.code, "STEMLINE_NOTIFY: address 1 is none that Apprise knows" in answer.err) == (2, True)
    assert "token-of-mine" not in answer.err + answer.out
    with receiver() as (address, posted):
        monkeypatch.setenv(notifications.ADDRESSES, f"nonsense://token-of-mine json://{address} token-alone")
        problem = notifications.send(CONFIG, NOTICE)  # nothing fails, and the others are told
        assert problem.startswith("not told: nonsense:// (1): STEMLINE_NOTIFY: address 1 is none that Apprise knows")
        assert "; address (3): STEMLINE_NOTIFY: address 3" in problem
        assert "token" not in problem.lower().replace("slack://tokens", "")
        assert len(posted) == 1
        monkeypatch.setenv(notifications.ADDRESSES, f"json://{address}")
        answer = stemline("notify", where, 'notify.on=["drift"]')
        assert (answer.code, answer.out) == (0, "Told: json://.\n")
        assert posted[1]["message"] == "This is a test. You are told of: drift."


def test_a_token_that_a_service_takes_for_a_wrong_one_is_in_no_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = io.StringIO()  # as Prefect puts a handler on the root; pytest's own catches what goes nowhere, too
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.StreamHandler(log)])
    monkeypatch.setenv(notifications.ADDRESSES, "slack://wrong-token/B1H9RESGL/5vBSXlDNlY8sLMZr1XoWvu0T")
    assert notifications.send(CONFIG, NOTICE).startswith("not told: slack:// (1): STEMLINE_NOTIFY: address 1 is none")
    assert log.getvalue() == ""
    assert "wrong-token" not in notifications.send(CONFIG, NOTICE)


@pytest.mark.slow  # imports Prefect
def test_a_run_whose_form_is_refused_is_told_and_no_password_of_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from flows import deployments

    message = "API request to http://me:secret@mlflow.test/api failed"
    of_run: Any = {"flow_run": SimpleNamespace(name="calm-owl", parameters={"overrides": ["train.stepps=2"]})}
    with receiver() as (address, posted):
        monkeypatch.setenv(notifications.ADDRESSES, f"json://{address}")
        deployments.tell_failure(SimpleNamespace(name="retrain"), state=SimpleNamespace(message=message), **of_run)
    assert [told["message"] for told in posted] == [
        "retrain, run calm-owl, failed: API request to http://me:***＠mlflow.test/api failed"
    ]


@pytest.mark.slow
def test_a_block_of_prefect_is_told_and_an_event_starts_a_flow(
    prefect_server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect import flow
    from prefect.automations import Automation
    from prefect.blocks.notifications import CustomWebhookNotificationBlock
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.client.schemas.sorting import FlowRunSort
    from prefect.events.actions import RunDeployment
    from prefect.events.schemas.automations import EventTrigger
    from prefect.settings import PREFECT_API_URL

    with receiver() as (address, posted), get_client(sync_client=True) as client:
        hook = {"url": f"http://{address}/hook", "json_data": {"text": "{{subject}}: {{body}}"}}
        CustomWebhookNotificationBlock(name="team", allow_private_urls=True, **hook).save("team", overwrite=True)
        deployment = client.create_deployment(
            flow_id=client.create_flow(flow(lambda: None, name="after-promotion")), name="after-promotion"
        )
        Automation(
            name="after a promotion",
            trigger=EventTrigger(
                expect={"stemline.promotion"}, match={"prefect.resource.id": "stemline.model.*"}, threshold=1
            ),
            actions=[RunDeployment(deployment_id=deployment)],
        ).create()
        moved = {"prefect.resource.id": "stemline.model.*", "stemline.alias": "champion"}
        Automation(
            name="after a move by hand",
            trigger=EventTrigger(expect={"stemline.alias"}, match=moved, threshold=1),
            actions=[RunDeployment(deployment_id=deployment)],
        ).create()
        monkeypatch.setenv(notifications.PREFECT, str(PREFECT_API_URL.value()))
        time.sleep(1.0)
        config = NotifyConfig(block="custom-webhook/team", wait_s=60.0)
        assert notifications.send(config, NOTICE) == ""
        assert posted[0]["text"].startswith("stemline stemline: new champion: It is ‹!channel›")
        of_it = FlowRunFilter.model_validate({"deployment_id": {"any_": [deployment]}})
        named: Any = {"sort": FlowRunSort.START_TIME_DESC, "limit": 1}
        until = time.monotonic() + 60
        while not (runs := client.read_flow_runs(flow_run_filter=of_it, **named)):
            assert time.monotonic() < until, "the automation started nothing"
            time.sleep(0.2)
        assert len(runs) == 1
        notifications.emit_alias_event("stemline", "champion", "4", event_id=str(uuid.uuid4()), wait_s=60.0)
        until = time.monotonic() + 60
        while len(runs := client.read_flow_runs(flow_run_filter=of_it)) < 2:
            assert time.monotonic() < until, "an alias that was moved by hand started nothing"
            time.sleep(0.2)
        assert notifications.send(NotifyConfig(block="custom-webhook/nobody"), NOTICE).startswith(
            "not told: custom-webhook/nobody: ValueError"
        )


@pytest.mark.slow
def test_a_deployed_run_that_fails_is_told(
    prefect_server: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import deployments

    with receiver() as (address, posted):
        monkeypatch.setenv(notifications.ADDRESSES, f"json://{address}")
        with pytest.raises(InputError):
            deployments.build_corpus(songs=str(tmp_path / "nowhere"), store=str(tmp_path / "store"))
        (message,) = posted
    assert message["title"] == "stemline stemline: failed"
    assert message["type"] == "failure"
    assert message["message"].startswith("build-corpus, run ")
    assert "the corpus folder" in message["message"]
