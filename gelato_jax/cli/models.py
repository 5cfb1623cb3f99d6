"""`gelato models`: what may be asked for by name."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Models:
    """List the models known by name; any other goes by hf:OWNER/NAME, folder or .gguf file."""

    def run(self) -> int:
        """Print name, size of the download, whether it is on this machine, whether a draft ships, and source."""
        from gelato_checkpoints import CATALOG, DEFAULT_MODEL, cache_directory, shipped_drafts

        drafts = shipped_drafts()
        rows = [("name", "download", "here", "trained draft", "source")]
        for name, source in CATALOG.items():
            cached = (cache_directory() / "models" / name).is_dir()
            size = getattr(source, "size", None)
            rows.append(
                (
                    f"{name} (default)" if name == DEFAULT_MODEL else name,
                    f"{size / 1e6:.0f} MB" if size else "-",
                    "yes" if cached else "no",
                    "ships" if name in drafts else "-",
                    _origin(source),
                )
            )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        return 0


def _origin(source) -> str:
    """Where a catalog entry comes from, as a user would write it."""
    if hasattr(source, "repository"):
        return f"hf:{source.repository}"
    return f"{source.project}=={source.version} ({source.member.rsplit('/', 1)[-1]})"
