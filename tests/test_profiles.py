"""One table of sizes: what it holds, how it is asked, and that nothing else differs between profiles."""

import dataclasses

import pytest

from sempa_utils import models, profiles
from sempa_utils.checks import InputError
from sempa_utils.profiles import PROFILES, Profile


def test_the_default_is_the_laptop(monkeypatch):
    monkeypatch.delenv("SEMPA_PROFILE", raising=False)
    assert profiles.get() is PROFILES["cpu"]
    monkeypatch.setenv("SEMPA_PROFILE", "")  # `SEMPA_PROFILE= make run` means the default too
    assert profiles.get() is PROFILES["cpu"]


def test_a_name_goes_before_the_environment(monkeypatch):
    monkeypatch.setenv("SEMPA_PROFILE", "24gb")
    assert profiles.get() is PROFILES["24gb"]
    assert profiles.get("t4") is PROFILES["t4"]


def test_an_unknown_profile_names_the_nearest(monkeypatch):
    with pytest.raises(InputError, match="Unknown profile '24GB'. Did you mean '24gb'.*smoke, cpu, t4, 24gb, paper"):
        profiles.get("24GB")
    monkeypatch.setenv("SEMPA_PROFILE", "cpus")
    with pytest.raises(InputError, match="Did you mean 'cpu'"):
        profiles.get()


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_is_sound(name):
    profile = PROFILES[name]
    assert profile.purpose
    assert {profile.precision, profile.evaluation_precision} <= set(models.PRECISIONS)
    for field in ("micro_batch", "accumulation", "max_length", "save_every", "picture_triplets"):
        assert isinstance(getattr(profile, field), int) and getattr(profile, field) > 0, field
    for field in ("triplets", "sts_pairs", "generation_items"):
        assert getattr(profile, field) is None or getattr(profile, field) > 0, field
    batch = profile.micro_batch * profile.accumulation
    assert profile.save_every >= batch, "a checkpoint needs at least one step"
    if profile.triplets is not None:
        assert profile.triplets >= batch and profile.save_every <= profile.triplets, "an interrupted run can resume"
    # The longest template with a short answer must fit into a sequence.
    assert profile.max_length >= 128


def test_a_profile_cannot_be_changed_in_passing():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PROFILES["cpu"].triplets = 1


def test_the_papers_profile_has_the_papers_setting():
    paper = PROFILES["paper"]
    assert paper.precision == "bfloat16"
    assert paper.micro_batch * paper.accumulation == 256
    assert (paper.micro_batch, paper.max_length, paper.save_every) == (8, 1024, 20_000)
    assert 40_000 <= paper.triplets <= 80_000
    assert paper.sts_pairs is None


def test_the_gpu_profiles_keep_the_papers_batch_and_quantise():
    for name in ("t4", "24gb"):
        assert PROFILES[name].micro_batch * PROFILES[name].accumulation == 256
        assert PROFILES[name].precision == "nf4"


def test_the_smoke_profile_is_smaller_than_every_other_in_all_sizes():
    sizes = [field.name for field in dataclasses.fields(Profile) if field.type in (int, int | None)]
    assert len(sizes) >= 7
    for name, profile in PROFILES.items():
        for size in sizes:
            other = getattr(profile, size)
            assert other is None or getattr(PROFILES["smoke"], size) <= other, (name, size)
