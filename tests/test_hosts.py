"""Two machines, played by two network namespaces joined by a cable, give the result of one process."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import DRAWN, largest_relative_difference, last_checkpoint, run, tensorboard_curves

HOSTS = {"lit0": "10.77.0.1", "lit1": "10.77.0.2"}
TRAIN = ("--data.batch_size=4", "--trainer.max_steps=60", "--trainer.log_every_n_steps=10")


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def hosts() -> Iterator[None]:
    """Two network namespaces, with a veth pair between them."""
    try:
        for name in HOSTS:
            ip("netns", "add", name)
        ip("link", "add", "veth0", "netns", "lit0", "type", "veth", "peer", "name", "veth1", "netns", "lit1")
        for i, (name, address) in enumerate(HOSTS.items()):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", f"veth{i}")
            ip("-n", name, "link", "set", f"veth{i}", "up")
            ip("-n", name, "link", "set", "lo", "up")
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("needs network namespaces: iproute2, and root")
    yield
    for name in HOSTS:
        subprocess.run(["ip", "netns", "del", name], check=False)


@pytest.mark.slow
def test_two_hosts_started_by_torchrun_train_like_one_process(hosts: None, tmp_path: Path) -> None:
    run(*DRAWN, *TRAIN, "--trainer.default_root_dir", tmp_path / "one")
    processes = []
    for rank, name in enumerate(HOSTS):
        rendezvous = ["--nnodes=2", "--nproc_per_node=1", f"--node_rank={rank}"]
        rendezvous += [f"--master_addr={HOSTS['lit0']}", "--master_port=29500"]
        command = ["ip", "netns", "exec", name, sys.executable, "-m", "torch.distributed.run", *rendezvous]
        command += ["-m", "lit_cifar", *DRAWN, *TRAIN, "--trainer.num_nodes=2", "--trainer.devices=1"]
        command += ["--trainer.default_root_dir", str(tmp_path / "two")]
        environment = os.environ | {"GLOO_SOCKET_IFNAME": f"veth{rank}"}
        processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    for process in processes:
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
    assert largest_relative_difference(last_checkpoint(tmp_path / "one"), last_checkpoint(tmp_path / "two")) <= 1e-5
    losses = [tensorboard_curves(tmp_path / name)["loss/train"] for name in ("one", "two")]
    assert [step for step, _ in losses[0]] == [step for step, _ in losses[1]]
    assert [f"{value:.4f}" for _, value in losses[0]] == [f"{value:.4f}" for _, value in losses[1]]
