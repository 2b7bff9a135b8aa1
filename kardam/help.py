"""How help reads: verbs in the order in which one meets them, and many flags under headings."""

import click

# What one meets first stands first; other verbs follow as they were added.
VERBS = (
    *("run", "simulate", "serve", "work", "stats", "report"),
    *("explain", "replay", "checkpoint", "keys", "doctor"),
)

# Columns of the flags; a longer one has its words on the next line.
WIDTH = 22

# Flags that are named nowhere here stand last, under Options.
SECTIONS = {
    "What is trained": ("task", "split", "seed", "root_examples"),
    "Who works, and how": (
        *("workers", "byzantine", "attack", "stragglers"),
        *("latency", "network", "speeds", "outages"),
    ),
    "What the server does with it": (
        *("f", "preset", "filter", "dampening", "rate"),
        *("optimizer", "gather", "aggregator", "memory"),
    ),
    "When it is enough": ("updates", "arrivals", "seconds", "target"),
    "Where it listens": ("bind", "transport", "keys", "insecure", "memory_limit", "dashboard"),
    "What is kept": (
        *("out", "resume", "record", "durable"),
        *("checkpoint_updates", "checkpoint_seconds", "keep", "dry_run"),
    ),
}


class Ordered(click.Group):
    """A group that lists its verbs in the order of VERBS."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(
            self.commands, key=lambda verb: VERBS.index(verb) if verb in VERBS else len(VERBS)
        )


class Sectioned(click.Command):
    """A command of many flags, each under its heading."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        options = [its for its in self.get_params(ctx) if isinstance(its, click.Option)]
        left = {str(option.name): option for option in options}
        for title, names in SECTIONS.items():
            known = [left.pop(name) for name in names if name in left]
            _section(ctx, formatter, title, known)
        _section(ctx, formatter, "Options", list(left.values()))


def _section(
    ctx: click.Context, formatter: click.HelpFormatter, title: str, options: list[click.Option]
) -> None:
    records = [record for option in options if (record := option.get_help_record(ctx)) is not None]
    if records:
        with formatter.section(title):
            # All sections have their words in one column.
            formatter.write_dl([(flag.ljust(WIDTH), words) for flag, words in records], WIDTH)
