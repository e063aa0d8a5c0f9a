"""What a training will take: known costs of known networks, and advice that fits once it is followed."""

from dataclasses import replace
from typing import Any

import pytest

from datasets.schema import SOURCES
from flows import config as door
from models.mixed_precision import DTYPES
from models.networks import compute_cost
from models.networks.catalog import build
from pipelines.training.resource_estimate import DEVICES, GIB, Device, device_named, fewer_rows, make, price
from pipelines.training.train_config import ModelConfig, TrainConfig

TINY = ModelConfig(preset="htdemucs-tiny", options={"segment_s": 2.0})
CONFIG = TrainConfig(batch_size=32, num_workers=1, use_gpu=True, steps=1000)


def plan(config: TrainConfig = CONFIG, model: ModelConfig = TINY, **options: Any) -> Any:
    return make(config, model, sources=SOURCES, **({"device": DEVICES["h100"]} | options))


def small(memory_gib: float) -> Device:
    return replace(DEVICES["h100"], memory_gib=memory_gib)


def test_ht_demucs_costs_what_is_known_of_it() -> None:
    found = compute_cost.of(lambda: build("htdemucs"), num_channels=2, num_samples=343_980)
    assert found.parameters == 41_984_456
    assert found.forward_flop == pytest.approx(335e9, rel=0.01)
    # With fused attention; without it 5.81.
    assert found.kept_bytes / GIB == pytest.approx(3.15, rel=0.02)


@pytest.mark.slow
def test_recurrent_and_sparse_networks_have_a_cost_too() -> None:
    for preset in ("hdemucs-tiny", "demucs-v2-tiny", "sparse-htdemucs-tiny"):
        found = compute_cost.of(lambda preset=preset: build(preset), num_channels=2, num_samples=132_300)  # type: ignore[misc]
        assert found.parameters == sum(value.numel() for value in build(preset).parameters())
        assert found.forward_flop > 1e8
        assert found.kept_bytes > 1e6


def test_time_follows_from_arithmetic_rate_and_share() -> None:
    cores = replace(CONFIG, cpus_per_worker=200)  # the loader keeps up with anything
    made = plan(cores, mfu=0.5, corpus_h=2.0)
    cost, _ = price(TINY, sources=SOURCES, sample_rate=44100, channels=2)
    per_step = 32 * cost.step_flop / (0.5 * 67e12)
    assert made.step_s == pytest.approx(per_step)
    assert made.hours == pytest.approx(1000 * per_step / 3600)
    assert made.dollars == pytest.approx(made.hours * 3)
    assert made.passes == pytest.approx(1000 * 32 * 2.0 / 3600 / 2)
    both = plan(replace(cores, num_workers=2), mfu=0.5)
    assert both.step_s == pytest.approx(made.step_s / 2)
    assert both.dollars == pytest.approx(made.dollars)


def test_what_does_not_fit_is_told_the_nearest_setting_that_does() -> None:
    assert plan().fits
    memory_gib = (plan().memory_gib - 20 * plan().row_gib) / 0.9
    assert not plan(device=small(memory_gib)).fits
    advice = plan(device=small(memory_gib)).advice
    rows = int(advice.removeprefix("train.micro_batch="))
    assert CONFIG.batch_size == 4 * rows, "parts are equal: of 12 rows that fit, 8 are computed at once"
    assert plan(replace(CONFIG, micro_batch=rows), device=small(memory_gib)).fits
    assert not plan(replace(CONFIG, micro_batch=2 * rows), device=small(memory_gib)).fits


def test_whole_songs_in_validation_take_memory_of_the_plan() -> None:
    by_default, whole = plan(), plan(replace(CONFIG, valid_s=0.0))
    hours = plan(replace(CONFIG, valid_s=36000.0))
    assert whole.memory_gib == max(by_default.memory_gib, whole.weights_gib + 3 * 4 * 4 * 2 * 44100 * 240 / 2**30)
    assert hours.memory_gib == pytest.approx(hours.weights_gib + 3 * 4 * 4 * 2 * 44100 * 36000 / 2**30)
    assert not hours.fits
    seconds = float(hours.advice.removeprefix("train.valid_s="))
    assert plan(replace(CONFIG, valid_s=seconds)).fits
    none = plan(replace(CONFIG, valid_s=36000.0, valid_songs=0))
    assert (none.validation_s, none.memory_gib) == (0.0, plan(replace(CONFIG, valid_songs=0)).memory_gib)


def test_room_for_less_than_a_second_of_validation_is_no_advice_to_take_whole_songs() -> None:
    short = replace(CONFIG, valid_s=0.5)
    assert plan(short, device=small((plan(short).weights_gib + 1e-4) / 0.9)).advice.startswith("a device with")


def test_short_of_one_row_bfloat16_is_advised_then_a_shorter_segment_then_a_larger_device() -> None:
    one = plan(replace(CONFIG, batch_size=4, micro_batch=1))
    tight = replace(CONFIG, batch_size=4, micro_batch=1)
    device = small((one.memory_gib - 0.3 * one.row_gib) / 0.9)
    assert plan(tight, device=device).advice == "train.learner.precision=bfloat16 train.micro_batch=1"
    device = small((one.memory_gib - 0.449 * one.row_gib) / 0.9)
    assert plan(tight, device=device).advice == "train.micro_batch=1 model.options.segment_s=1.1"
    assert "GiB of memory" in plan(device=small(1.0)).advice


def test_where_bfloat16_is_computed_in_float32_it_saves_no_memory_and_is_not_advised() -> None:
    one = plan(replace(CONFIG, batch_size=4, micro_batch=1))
    device = replace(small((one.memory_gib - 0.3 * one.row_gib) / 0.9), computes_bfloat16=False)
    tight = replace(CONFIG, batch_size=4, micro_batch=1)
    assert plan(tight, device=device).advice.startswith("train.micro_batch=1 model.options.segment_s=")
    lower = replace(tight, learner=replace(CONFIG.learner, precision="bfloat16"))
    assert plan(lower, device=device).row_gib == one.row_gib > plan(lower).row_gib


def test_groups_that_are_judged_together_are_not_split_by_advice() -> None:
    learner = replace(CONFIG.learner, trim_loss_drop=0.125)
    roomy = plan(replace(CONFIG, learner=learner))
    memory_gib = (roomy.memory_gib - 20 * roomy.row_gib) / 0.9
    assert plan(replace(CONFIG, learner=learner), device=small(memory_gib)).advice == "train.micro_batch=8"


def test_a_step_takes_as_long_as_computing_or_loading_whichever_is_longer() -> None:
    made = plan(mfu=0.5)
    # 32 rows of 3 s (the segment and the shift) by one core that decodes 40 of 10 s.
    assert made.loading_s == pytest.approx(32 * 3 / 400, rel=1e-3)
    assert (made.step_s, made.bound) == (made.loading_s, "loader")
    assert made.hours == pytest.approx(1000 * made.loading_s / 3600)
    assert made.dollars == pytest.approx(3 * made.hours)
    assert made.crops_per_s == pytest.approx(400 / 3, rel=1e-3)
    fed = plan(replace(CONFIG, cpus_per_worker=made.cpus_per_worker), mfu=0.5)
    assert (fed.bound, fed.step_s) == ("compute", fed.compute_s)
    assert fed.loading_s < fed.compute_s < plan(replace(CONFIG, cpus_per_worker=made.cpus_per_worker - 1)).loading_s
    assert fed.loading_cores == made.cpus_per_worker >= fed.decoding_cores


def test_threads_that_have_no_core_do_not_load_faster_and_fewer_threads_load_slower() -> None:
    one = plan().loading_s
    loader = CONFIG.loader
    assert plan(replace(CONFIG, loader=replace(loader, threads=8))).loading_s == one
    four = replace(CONFIG, cpus_per_worker=4)
    assert plan(four).loading_s == pytest.approx(one / 4)
    assert plan(replace(four, loader=replace(loader, threads=2))).loading_s == pytest.approx(one / 2)
    kept = replace(loader, cache="/scratch/rows", cache_form="pcm")
    assert plan(replace(CONFIG, loader=kept)).loading_s == pytest.approx(one / 8)
    assert plan(replace(CONFIG, num_workers=2)).loading_s == pytest.approx(one / 2)
    repitched = replace(CONFIG.learner, augment=replace(CONFIG.learner.augment, repitch_probability=0.2))
    assert plan(replace(CONFIG, learner=repitched)).loading_s == pytest.approx(1.15 * one, rel=0.01)


def test_a_cpu_that_loads_does_not_compute_meanwhile() -> None:
    device = replace(DEVICES["h100"], name="this machine")
    made = plan(device=device, mfu=0.5)
    assert made.step_s == pytest.approx(made.compute_s + made.loading_s)


@pytest.mark.slow
@pytest.mark.parametrize("preset", [name for name in door.presets() if door.load(name).train.use_gpu])
def test_gpu_presets_ask_for_the_cores_that_feed_the_fastest_gpu(preset: str) -> None:
    config = door.load(preset)
    for device in DEVICES.values():
        made = make(config.train, config.model, sources=config.corpus.sources, device=device)
        assert made.bound == "compute", (device.name, made.cpus_per_worker)
    fastest = make(config.train, config.model, sources=config.corpus.sources, device=DEVICES["h200"])
    assert config.train.cpus_per_worker == fastest.cpus_per_worker + 1  # one for the training itself


@pytest.mark.slow
def test_one_core_does_not_feed_a_gpu_in_bfloat16() -> None:
    config = door.load("htdemucs-musdb")
    starved = make(
        replace(config.train, cpus_per_worker=1, learner=replace(config.train.learner, precision="bfloat16")),
        config.model, sources=config.corpus.sources, device=DEVICES["h100"],
    )  # fmt: skip
    assert starved.bound == "loader"
    assert starved.step_s == starved.loading_s > starved.compute_s


@pytest.mark.slow
def test_memory_of_the_plan_is_what_is_counted_of_a_whole_batch_with_fused_attention() -> None:
    for precision, known_gib in (("float32", 3.15), ("bfloat16", 1.73)):
        learner = replace(CONFIG.learner, precision=precision)
        made = plan(replace(CONFIG, learner=learner), ModelConfig(), device=DEVICES["h200"])
        whole = compute_cost.of(
            lambda: build("htdemucs"), num_channels=2, num_samples=343_980, rows=32, precision=DTYPES[precision]
        )
        assert made.row_gib == pytest.approx(known_gib, rel=0.1)
        assert made.memory_gib == pytest.approx(
            made.memory_gib - 32 * made.row_gib + 32 * whole.kept_bytes / GIB, rel=0.1
        )
        assert made.fits


def test_few_rows_at_once_leave_a_gpu_waiting_for_the_host() -> None:
    one, all_rows = plan(replace(CONFIG, micro_batch=1)), plan()
    assert (one.limit, one.parts) == ("launches", 32)
    assert one.compute_s == pytest.approx(one.launches_s)
    assert one.launches_s == pytest.approx(32 * all_rows.launches_s)
    filled = plan(replace(CONFIG, micro_batch=one.rows_to_fill))
    assert all_rows.rows_to_fill in (0, 32)
    assert 1 < one.rows_to_fill <= 32
    assert filled.compute_s < one.compute_s / 2


def test_arithmetic_or_memory_traffic_binds_by_the_rates_of_the_device() -> None:
    full = plan(CONFIG, ModelConfig(), device=replace(DEVICES["h200"], memory_tb_per_s=100.0))
    assert full.limit == "arithmetic"
    narrow = plan(CONFIG, ModelConfig(), device=replace(DEVICES["h200"], memory_tb_per_s=0.1))
    assert narrow.limit == "memory traffic"
    assert narrow.arithmetic_s == full.arithmetic_s
    assert narrow.traffic_s == pytest.approx(1000 * full.traffic_s)
    assert narrow.compute_s == pytest.approx((narrow.arithmetic_s + narrow.traffic_s) / 0.75)
    assert narrow.mfu == pytest.approx(narrow.arithmetic_s * 0.8 / narrow.compute_s)


def test_rows_after_a_full_memory_are_what_fits_by_the_counts_and_at_most_half() -> None:
    def fewer(memory_gib: float, config: TrainConfig = CONFIG) -> int:
        return fewer_rows(
            config, TINY, sources=SOURCES, sample_rate=44100, channels=2, memory_gib=memory_gib, num_rows=32
        )

    one = plan(replace(CONFIG, micro_batch=1))
    assert fewer(1000.0) == 16
    assert fewer(1000.0, replace(CONFIG, micro_batch=16)) == 8
    assert fewer((one.memory_gib + 5.5 * one.row_gib) / 0.9) == 4
    assert fewer(0.5) == 0


def test_a_driver_s_name_is_that_of_a_known_device() -> None:
    names = {
        ("NVIDIA H200", 139.8): "h200",
        ("NVIDIA H100 80GB HBM3", 79.6): "h100",
        ("NVIDIA A100-SXM4-40GB", 39.4): "a100-40",
        ("NVIDIA A100-SXM4-80GB", 79.3): "a100-80",
        ("NVIDIA GeForce RTX 4090", 23.6): "rtx4090",
        ("Tesla V100-SXM2-32GB", 31.7): "v100-32",
    }
    for (name, memory_gib), expected in names.items():
        device = device_named(name, memory_gib)
        assert device is not None
        assert device.name == expected
    assert device_named("NVIDIA L40S", 45.0) is None
