"""What `ray up` does with the files of clouds: Ray's own code runs, with commands recorded and AWS by moto."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.command_runner import DockerCommandRunner


class Recorder:
    """In place of `subprocess`: keeps what would run by SSH, and answers as a machine whose container does not run."""

    def __init__(self) -> None:
        self.commands: list[str] = []

    def check_call(self, words: list[str], *_: Any, **__: Any) -> int:
        self.commands.append(" ".join(words))
        return 0

    def check_output(self, words: list[str], *_: Any, **__: Any) -> bytes:
        self.check_call(words)
        return b'["HOME=/home/stemline"]' if "Config.Env" in words[-1] else b""


class Node:
    """A machine with an address."""

    def external_ip(self, node_id: str) -> str:
        return "192.0.2.1"

    internal_ip = external_ip


@pytest.fixture
def infra(repository: Path) -> Path:
    return repository / "infra"


def told(infra: Path, name: str) -> dict[str, Any]:
    """The cluster file."""
    found: dict[str, Any] = yaml.safe_load((infra / "ray" / name).read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("name", ["aws.yaml", "gcp.yaml"])
def test_the_container_is_started_with_the_file_of_secrets_that_was_copied(
    name: str, infra: Path, tmp_path: Path
) -> None:
    cluster, recorder = told(infra, name), Recorder()
    secrets = tmp_path / "stemline.env"
    secrets.write_text("RAY_AUTH_TOKEN=x\n")
    runner = DockerCommandRunner(
        cluster["docker"],
        log_prefix="",
        node_id="1",
        provider=Node(),
        auth_config={**cluster["auth"], "ssh_private_key": str(tmp_path / "key")},
        cluster_name=cluster["cluster_name"],
        process_runner=recorder,
        use_internal_ip=False,
    )
    ((target, own),) = cluster["file_mounts"].items()
    assert own == "~/.stemline.env"
    assert runner.run_init(as_head=True, file_mounts={target: str(secrets)}, sync_run_yet=False), "files come first"
    runner.run_rsync_up(str(secrets), target, options={"docker_mount_if_possible": True})
    runner.run_init(as_head=True, file_mounts={target: str(secrets)}, sync_run_yet=True)
    (copied,) = [command.split()[-1].partition(":")[2] for command in recorder.commands if command.startswith("rsync")]
    (start,) = [command for command in recorder.commands if "docker run" in command]
    assert f"--env-file {copied} " in start
    assert f"-v {copied}:{target} " in start.replace("//", "/")
    assert "RAY_AUTH_TOKEN=" not in " ".join(recorder.commands)


def test_no_machine_of_aws_lets_the_world_try_ssh(infra: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import boto3
    from moto import mock_aws
    from ray.autoscaler._private.aws import config as ray_aws

    for key, value in {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "HOME": str(tmp_path)}.items():
        monkeypatch.setenv(key, value)
    cluster = told(infra, "aws.yaml")
    region = cluster["provider"]["region"]
    with mock_aws():
        ec2 = boto3.resource("ec2", region_name=region)
        (network,) = ec2.vpcs.all()
        group = ec2.create_security_group(GroupName="stemline", Description="stemline", VpcId=network.id)
        text = (infra / "ray" / "aws.yaml").read_text(encoding="utf-8").replace("sg-yours", group.id)
        settled = ray_aws.bootstrap_aws({**yaml.safe_load(text), "file_mounts": {}})
        nodes = [kind["node_config"] for kind in settled["available_node_types"].values()]
        assert [node["SecurityGroupIds"] for node in nodes] == [[group.id]] * 3
        assert [node["IamInstanceProfile"] for node in nodes] == [{"Name": "stemline"}] * 3, "Ray puts no other there"
        assert all(node["ImageId"].startswith("ami-") and node["SubnetIds"] for node in nodes)
        opened = [rule for one in ec2.security_groups.all() for rule in one.ip_permissions if "0.0.0.0/0" in str(rule)]
    assert not opened
    assert os.listdir(tmp_path) == [".ssh"]
