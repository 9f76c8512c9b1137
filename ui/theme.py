"""Colours and measures of Gradio's own parts, so that they look like ours (see assets/10-tokens.css)."""

from __future__ import annotations

from gradio.themes import Base

from ui.scripts import style_sheet

_SANS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif"]
_MONO = ["ui-monospace", "SFMono-Regular", "Cascadia Mono", "DejaVu Sans Mono", "monospace"]

# Our custom properties change with light and dark themselves, so that both of Gradio's themes are the same.
_COLOURS = {
    "body_background_fill": "var(--em-ground)",
    "body_text_color": "var(--em-text)",
    "body_text_color_subdued": "var(--em-muted)",
    "background_fill_primary": "var(--em-surface)",
    "background_fill_secondary": "var(--em-raised)",
    "border_color_primary": "var(--em-line)",
    "border_color_accent": "var(--em-accent)",
    "color_accent_soft": "var(--em-accent-soft)",
    "link_text_color": "var(--em-accent-text)",
    "link_text_color_hover": "var(--em-accent-text)",
    "block_background_fill": "transparent",
    "block_border_width": "0px",
    "block_border_color": "var(--em-line)",
    "block_shadow": "none",
    "block_info_text_color": "var(--em-muted)",
    "block_label_text_color": "var(--em-muted)",
    "block_label_background_fill": "transparent",
    "block_title_text_color": "var(--em-muted)",
    "panel_background_fill": "transparent",
    "input_background_fill": "var(--em-field)",
    "input_background_fill_focus": "var(--em-field)",
    "input_border_color": "var(--em-line-strong)",
    "input_border_color_focus": "var(--em-accent)",
    "input_border_width": "1px",
    "input_placeholder_color": "var(--em-faint)",
    "input_shadow": "none",
    "input_shadow_focus": "0 0 0 3px var(--em-accent-soft)",
    "checkbox_background_color": "var(--em-field)",
    "checkbox_background_color_selected": "var(--em-accent)",
    "checkbox_border_color": "var(--em-line-strong)",
    "checkbox_border_color_selected": "var(--em-accent)",
    "checkbox_label_background_fill": "transparent",
    "checkbox_label_background_fill_hover": "transparent",
    "checkbox_label_background_fill_selected": "transparent",
    "checkbox_label_text_color": "var(--em-text)",
    "button_primary_background_fill": "var(--em-accent)",
    "button_primary_background_fill_hover": "var(--em-accent-hover)",
    "button_primary_text_color": "var(--em-on-accent)",
    "button_primary_border_color": "transparent",
    "button_secondary_background_fill": "var(--em-raised)",
    "button_secondary_background_fill_hover": "var(--em-hover)",
    "button_secondary_text_color": "var(--em-text)",
    "button_secondary_border_color": "var(--em-line)",
    "error_background_fill": "var(--em-surface)",
    "error_border_color": "var(--em-problem)",
    "error_text_color": "var(--em-problem)",
    "table_border_color": "var(--em-line)",
    "table_even_background_fill": "var(--em-surface)",
    "table_odd_background_fill": "var(--em-raised)",
    "table_text_color": "var(--em-text)",
    "slider_color": "var(--em-accent)",
}
_MEASURES = {
    "button_large_padding": "9px 16px",
    "button_large_radius": "9px",
    "button_large_text_size": "14px",
    "button_large_text_weight": "550",
    "color_accent": "var(--em-accent)",
    "block_padding": "0px",
    "block_radius": "8px",
    "block_info_text_size": "12px",
    "block_title_text_size": "12.5px",
    "block_title_text_weight": "500",
    "input_padding": "8px 10px",
    "input_radius": "8px",
    "input_text_size": "14px",
    "layout_gap": "10px",
}


def make_theme() -> Base:
    """Gradio's plainest theme with system fonts, our colours and our style sheets."""
    theme = Base(font=_SANS, font_mono=_MONO, text_size="sm", spacing_size="md", radius_size="md")
    theme.set(**_COLOURS, **{f"{name}_dark": value for name, value in _COLOURS.items()}, **_MEASURES)
    # Gradio loads this before it shows anything, so that the page is never seen without its style.
    theme.custom_css = style_sheet()
    return theme
