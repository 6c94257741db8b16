"""Variants are found, asked and blamed by name."""

from __future__ import annotations

import logging
from collections.abc import Generator
from importlib.metadata import EntryPoint
from typing import Any

import pytest

from mlsysopt.compile.variants import registry
from mlsysopt.compile.variants.site import Site, Variant
from mlsysopt.core import plugins
from mlsysopt.core.errors import PluginError, UsageError

OURS = {
    "aten.int8_dynamic", "aten.nn", "aten.nt", "aten.tn", "mkl.packed", "onednn.bf16", "onednn.packed",
    "panel.bf16w", "panel.f32", "panel.int8w",
}  # fmt: skip


@pytest.fixture
def empty() -> Generator[None]:
    """The registry before anybody asked it."""
    registry._loaded.cache_clear()
    registry._tried.cache_clear()
    yield
    registry._loaded.cache_clear()
    registry._tried.cache_clear()


def strangers(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    real = plugins.entry_points

    def found(*, group: str) -> Any:
        added = [EntryPoint(f"stranger.{name}", value, group) for name, value in values.items()]
        return [*real(group=group), *(added if group == "mlsysopt.variants" else [])]

    monkeypatch.setattr(plugins, "entry_points", found)


def test_finds_ours_baseline_first() -> None:
    found = registry.variants("linear")
    assert [one.name for one in found] == ["aten.nt", *sorted(OURS - {"aten.nt"})]
    assert all(isinstance(one, Variant) for one in found)
    assert registry.variants("no such op") == []


def test_asking_twice_gives_the_same_variant() -> None:
    assert registry.variant("aten.nn") is registry.variant("aten.nn")


def test_generated_code_calls_the_panels_alone() -> None:
    assert {one.name for one in registry.variants("linear") if one.native} == {
        "panel.bf16w", "panel.f32", "panel.int8w",
    }  # fmt: skip


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"unknown variant 'panel.f23'; did you mean panel.f32\?"):
        registry.variant("panel.f23")


@pytest.mark.usefixtures("empty")
def test_a_broken_one_is_blamed_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    strangers(
        monkeypatch,
        gone="tests.no_such_module:make",
        raising="tests.compile.variants.test_registry:raising",
        other="mlsysopt.compile.variants.aten:nn",
        empty="builtins:dict",
    )
    with caplog.at_level(logging.WARNING, logger="mlsysopt.compile"):
        found = registry.variants("linear")
        registry.variants("linear")
    assert {one.name for one in found} == OURS
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 4, "each is named once"
    assert all(message.startswith("variant stranger.") for message in said)
    with pytest.raises(PluginError, match=r"'stranger.gone' .* failed in import: ModuleNotFoundError"):
        registry.variant("stranger.gone")
    with pytest.raises(PluginError, match=r"'stranger.raising' .* failed in its constructor: ZeroDivisionError"):
        registry.variant("stranger.raising")
    with pytest.raises(PluginError, match=r"'stranger.other' calls itself 'aten.nn'"):
        registry.variant("stranger.other")
    with pytest.raises(PluginError, match=r"'stranger.empty' .* has no 'name'"):
        registry.variant("stranger.empty")


def raising() -> Any:
    return 1 // 0


def test_all_refuse_what_is_no_linear_product() -> None:
    conv = Site("conv", Site.linear(8, 16, 16).sizes)
    for one in registry.variants("linear"):
        refusal = one.supports(conv)
        assert refusal is not None
        assert refusal.reason == "it does linear products, not conv"
