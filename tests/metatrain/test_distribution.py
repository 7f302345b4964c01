"""Meta-training on several replicas and in several processes takes the steps of one process on the same global batch."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from tfmetaprune._keras import tf
from tfmetaprune.errors import ArgumentError
from tfmetaprune.metanet import MetaNetConfig, MetaNetwork
from tfmetaprune.metatrain.distribution import check_distribution, gather, is_chief, make_strategy

ROOT = pathlib.Path(__file__).resolve().parents[2]
SECONDS = 240  # until a worker is given up; on an idle machine it takes ten


def _start(strategy, folder, result, interruption=0, tf_config=None):
    command = [sys.executable, str(pathlib.Path(__file__).with_name("worker.py")), strategy, folder, result, interruption]
    environment = {name: value for name, value in os.environ.items() if name != "TF_CONFIG"}
    environment.update(PYTHONPATH=str(ROOT), TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="-1")
    if tf_config is not None:
        environment["TF_CONFIG"] = json.dumps(tf_config)
    return subprocess.Popen(
        [str(word) for word in command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def _finish(processes):
    """Waits for processes that depend on each other; none of them outlives the call."""
    deadline = time.monotonic() + SECONDS
    try:
        for process in processes:
            output, _ = process.communicate(timeout=max(1.0, deadline - time.monotonic()))
            assert process.returncode == 0, output[-3000:]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _free_ports(count):
    """Ports of this machine that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("localhost", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _logged(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    folder = tmp_path_factory.mktemp("single")
    _finish([_start("none", folder, folder / "result.npz")])
    return np.load(folder / "result.npz")


def _assert_same(result, single, num_replicas):
    steps = ~np.isnan(result["losses"])
    np.testing.assert_allclose(result["losses"][steps], single["losses"], rtol=1e-5)
    assert len(result["replicas"]) == num_replicas
    for replica in result["replicas"]:
        np.testing.assert_allclose(replica, single["replicas"][0], rtol=1e-4, atol=1e-6)


def test_two_mirrored_devices_equal_one_process(single, tmp_path):
    _finish([_start("mirrored", tmp_path, tmp_path / "result.npz")])
    _assert_same(np.load(tmp_path / "result.npz"), single, 2)
    assert [line["loss"] for line in _logged(tmp_path)] == np.load(tmp_path / "result.npz")["losses"].tolist()


def test_two_workers_that_are_interrupted_equal_one_process(single, tmp_path):
    addresses = [f"localhost:{port}" for port in _free_ports(2)]
    results = [tmp_path / f"result{index}.npz" for index in range(2)]
    folder = tmp_path / "run"
    _finish([
        _start("multi-worker", folder, result, 2, {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}})
        for index, result in enumerate(results)
    ])  # fmt: skip
    for result in map(np.load, results):
        assert np.isnan(result["losses"]).tolist() == [False, False, True, False]
        _assert_same(result, single, 1)
    assert [line["step"] for line in _logged(folder)] == [0, 1, 2]  # the chief alone has written
    assert sorted(path.name for path in (folder / "checkpoints").glob("*.index")) == ["ckpt-2.index", "ckpt-3.index"]


def test_a_metanetwork_of_another_strategy_and_a_wrong_number_of_models_are_refused():
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    outside = MetaNetwork(MetaNetConfig(hidden=2, num_layers=1))
    with pytest.raises(ArgumentError, match="MetaTrainer: expected a metanetwork made under the strategy's scope"):
        check_distribution(strategy, outside.trainable_variables, 1)

    class TwoReplicas:
        num_replicas_in_sync, extended = 2, tf.distribute.get_strategy().extended

    with pytest.raises(ArgumentError, match="multiple of the 2 replicas of the strategy, got 3. Use 4"):
        check_distribution(TwoReplicas(), outside.trainable_variables, 3)
    check_distribution(TwoReplicas(), outside.trainable_variables, 4)


def test_strategies_by_name():
    assert make_strategy("none").num_replicas_in_sync == 1
    assert make_strategy("mirrored").num_replicas_in_sync == max(1, len(tf.config.list_physical_devices("GPU")))
    assert is_chief(make_strategy("none")) and gather(make_strategy("none"), 7) == [7]
    with pytest.raises(ArgumentError, match="expected one of none, mirrored, multi-worker, got 'tpu'"):
        make_strategy("tpu")
