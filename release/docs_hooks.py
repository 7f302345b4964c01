"""What mkdocs does beyond its configuration: pages that nobody listed, the options of every command, the metanetworks' cards.

mkdocs calls `on_config` and `on_page_markdown` by these names.
"""

import importlib
import importlib.metadata
import json
import pathlib

MEASURED = "Measured"
ROOT = pathlib.Path(__file__).parents[1]


def on_config(config):
    """Adds every page of docs/ that the navigation does not name to the section "Measured"."""
    docs = pathlib.Path(config.docs_dir)
    pages = {path.relative_to(docs).as_posix() for path in docs.rglob("*.md")}
    section = next(entry[MEASURED] for entry in config.nav if MEASURED in entry)
    section += [{_title(docs / page): page} for page in sorted(pages - set(_named(config.nav)))]
    return config


def on_page_markdown(markdown, **_):
    """Puts the options of every command, and the cards, where a page asks for them."""
    for mark, make in (("<!-- commands -->", commands_reference), ("<!-- cards -->", cards)):
        markdown = markdown.replace(mark, make()) if mark in markdown else markdown
    return markdown


def cards():
    """The cards of the shipped metanetworks as Markdown."""
    parts = []
    for path in sorted((ROOT / "saved_models").glob("*.json")):
        card = json.loads(path.read_text(encoding="utf-8"))
        measured, config = card["measured"], card["config"]
        columns = [f"{speedup:g}x" for speedup in measured.get("speedups", ())] or measured["zeros"]
        unpruned = measured["unpruned"]
        rows = [_row(f"accuracy in %, {measured['num_models']} held-out networks", columns), "|---" * (len(columns) + 1) + "|"]
        for method, means in measured["mean"].items():
            rows.append(_row(method, (f"{100 * m:.1f} ± {100 * s:.1f}" for m, s in zip(means, measured["std"][method]))))
        gains = zip(measured["gain"], measured["gain_standard_error"])
        rows.append(_row("gain", (f"{100 * gain:+.1f} ({100 * error:.1f})" for gain, error in gains)))
        rows.append(_row("networks won", measured["models_won"]))
        parts += [
            f"## {path.stem}",
            f"{card['parameters']:,} parameters, {config['num_layers']} rounds of {config['message_passing']!r}, width "
            f"{config['hidden']}. Data models: {card['seconds']['data_models']:,} s, meta-training: "
            f"{card['seconds']['meta_training']:,} s. Made by:",
            f"    {card['command']}",
            *([card["remark"]] if "remark" in card else []),
            f"Measured: {measured['what']}. Unpruned {100 * unpruned['mean']:.1f} ± {100 * unpruned['std']:.1f}.",
            "\n".join(rows),
        ]
        if "by_setting" in measured:
            rows = [_row("gain", columns), "|---" * (len(columns) + 1) + "|"]
            for setting, part in measured["by_setting"].items():
                gains = zip(part["gain"], part["gain_standard_error"], part["models_won"])
                cells = (f"{100 * gain:+.1f} ({100 * error:.1f}), {won}" for gain, error, won in gains)
                rows.append(_row(f"{setting}, {part['num_models']} networks", cells))
            parts += ["Gains by what the networks were, and how many were won:", "\n".join(rows)]
    return "\n\n".join(parts)


def _row(first, cells):
    return "| " + " | ".join((first, *map(str, cells))) + " |"


def commands_reference():
    """The commands of the command line as Markdown: what each does, its arguments and its options, read from the code."""
    import typer

    (entry_point,) = importlib.metadata.entry_points(group="console_scripts", name="tfmetaprune")
    group = typer.main.get_command(importlib.import_module(entry_point.module).app)
    parts = []
    for name, command in _leaves(group.commands):
        usage = f"tfmetaprune {name} [OPTIONS]"
        rows = []
        for parameter in command.params:
            help_text = (getattr(parameter, "help", None) or "").replace("|", "\\|")
            if parameter.param_type_name == "argument":
                usage += f" {parameter.metavar or parameter.name.upper()}"
            else:
                names = ", ".join(f"`{option}`" for option in (*parameter.opts, *parameter.secondary_opts))
                rows.append(f"| {names} | {help_text} | {_default(parameter)} |")
        table = ["| option | | default |", "|---|---|---|", *rows] if rows else []
        examples = (command.epilog or "").partition("Examples:")[2].split("\n\n")
        lines = [line.strip() for line in examples if line.strip()]
        parts += [f"## {name}", command.help or "", f"```\n{usage}\n```", "\n".join(table)]
        parts += ["```\n" + "\n".join(lines) + "\n```"] if lines else []
    return "\n\n".join(part for part in parts if part)


def _leaves(commands, prefix=""):
    """Every command with its whole name, those inside groups too."""
    for name, command in commands.items():
        inside = getattr(command, "commands", None)
        yield from [(prefix + name, command)] if inside is None else _leaves(inside, f"{prefix}{name} ")


def _default(parameter):
    shown = getattr(parameter, "show_default", None)
    if parameter.required:
        return "required"
    if isinstance(shown, str):
        return f"`{shown}`"
    return "" if parameter.default in (None, False) or callable(parameter.default) else f"`{parameter.default}`"


def _named(entries):
    """The pages that a navigation names."""
    for entry in entries:
        for value in entry.values() if isinstance(entry, dict) else (entry,):
            yield from _named(value) if isinstance(value, list) else (value,)


def _title(path):
    """The first heading of a page."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return next((line[2:].strip() for line in lines if line.startswith("# ")), path.stem)
