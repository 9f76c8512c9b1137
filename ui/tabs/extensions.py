"""Which extensions there are, and what is wrong with those that do not run."""

from __future__ import annotations

from typing import Any

import gradio as gr

from backend.engine.engine import Engine
from backend.errors import ExtensionError
from backend.extensions.loaded import ExtensionReport, Extensions, LoadedExtension
from backend.extensions.loader import guarded_call, load_ui_module
from ui.api import PageApi, Tab
from ui.scripts import mounts

_LIST = '<div class="em-extensions"></div>'
_FAILED = '<p class="em-failed" role="alert">This tab could not be built. The Extensions tab says why.</p>'


def build_extension_tabs(engine: Engine, extensions: Extensions) -> None:
    """One tab for each that an extension adds. What fails becomes a problem of its extension, and the rest goes on."""
    for extension in extensions.loaded:
        for tab in _tabs_of(extension):
            with gr.Tab(tab.label, id=f"{extension.manifest.id}/{tab.name}", elem_classes=["em-plain-tab"]):
                _build(engine, extension, tab)


def build_list(extensions: Extensions) -> None:
    """The list itself, which is read again whenever its tab is opened."""

    def entries() -> list[dict[str, Any]]:
        return [_entry(report) for report in extensions.report()]

    with gr.Tab("Extensions", id="extensions", elem_classes=["em-plain-tab"]) as tab:
        shown = gr.HTML(
            value=entries(),
            label="Extensions",
            html_template=_LIST,
            js_on_load=mounts("extension_list.js"),
            apply_default_css=False,
        )
    tab.select(entries, None, shown, api_visibility="private", queue=False, show_progress="hidden")


def _tabs_of(extension: LoadedExtension) -> tuple[Tab, ...]:
    if not extension.manifest.ui:
        return ()
    page = PageApi(extension.manifest.id)
    try:
        setup = vars(load_ui_module(extension)).get("setup_page")
        if not callable(setup):
            raise ExtensionError(extension.manifest.id, "its ui.py has no function setup_page(api)")
        guarded_call(extension, "setup_page", lambda: setup(page))
    except ExtensionError as error:
        extension.api.add_problem(f"It has no tab: {error.problem}")
    return page.tabs


def _build(engine: Engine, extension: LoadedExtension, tab: Tab) -> None:
    try:
        guarded_call(extension, f'tab "{tab.label}"', lambda: tab.build(engine))
    except ExtensionError as error:
        extension.api.add_problem(error.problem)
        gr.HTML(html_template=_FAILED, label="Problem", apply_default_css=False)


def _entry(report: ExtensionReport) -> dict[str, Any]:
    manifest = report.manifest
    return {
        "id": report.id,
        "state": report.state.value,
        "problems": list(report.problems),
        "name": manifest.name if manifest else report.id,
        "version": manifest.version if manifest else "",
        "author": manifest.author if manifest else "",
        "licence": manifest.licence if manifest else "",
        "description": manifest.description if manifest else "",
        "needs": list(manifest.needs) if manifest else [],
    }
