#!/usr/bin/env python3
"""Which advisories of a RustSec database apply to the packages of a Cargo.lock; see scripts/advisories.

cargo-deny wants a git repository and its history; this reads the files alone, so that a database may
also come as an archive.
"""
import datetime
import pathlib
import re
import sys
import tomllib


def version(text):
    """A version that compares as SemVer says: a pre-release comes before its release."""
    core, _, pre = text.split("+")[0].partition("-")
    numbers = [int(part) for part in core.split(".")]
    numbers += [0] * (3 - len(numbers))
    parts = [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in pre.split(".")] if pre else []
    return numbers, not pre, parts


def caret(text):
    """The first version that is not compatible with this one."""
    numbers = [int(part) for part in text.split("-")[0].split(".")]
    at = next((i for i, number in enumerate(numbers) if number), len(numbers) - 1)
    return version(".".join(map(str, numbers[:at] + [numbers[at] + 1])))


def matches(requirement, found):
    """Whether a version meets all parts of a requirement such as ">= 1.2, < 1.4"."""
    for part in requirement.split(","):
        operator, number = re.fullmatch(r"\s*(>=|<=|>|<|=|\^|~)?\s*(\S+)\s*", part).groups()
        wanted = version(number)
        if operator == "~":
            numbers = [int(part) for part in number.split("-")[0].split(".")][:2]
            after = version(".".join(map(str, numbers[:-1] + [numbers[-1] + 1])))
            met = wanted <= found < after
        else:
            met = {
                ">=": found >= wanted, ">": found > wanted, "<=": found <= wanted,
                "<": found < wanted, "=": found == wanted,
            }.get(operator, wanted <= found < caret(number) if operator in (None, "^") else False)
        if not met:
            return False
    return True


def advisory(path):
    """The front matter of an advisory: a block of TOML in Markdown."""
    return tomllib.loads(re.search(r"```toml\n(.*?)```", path.read_text(), re.S).group(1))


def main(database, lock):
    packages = tomllib.loads(pathlib.Path(lock).read_text())["package"]
    packages = [package for package in packages if "source" in package]
    applying, newest = [], datetime.date.min
    files = list(pathlib.Path(database, "crates").glob("*/RUSTSEC-*.md"))
    if not files:
        sys.exit(f"advisories: no advisories in {database}")
    names = {package["name"] for package in packages}
    for path in files:
        found = advisory(path)
        about, versions = found["advisory"], found.get("versions", {})
        newest = max(newest, datetime.date.fromisoformat(str(about["date"])))
        if about["package"] not in names or about.get("withdrawn"):
            continue
        well = versions.get("patched", []) + versions.get("unaffected", [])
        for package in packages:
            if package["name"] == about["package"] and not any(
                matches(requirement, version(package["version"])) for requirement in well
            ):
                applying.append((about, package))
    age = (datetime.date.today() - newest).days
    print(f"advisories: {len(packages)} packages, {len(files)} advisories, the newest {age} days old")
    failed = False
    for about, package in applying:
        # Unmaintained, or a notice: worth knowing, and no vulnerability.
        kind = about.get("informational")
        failed |= kind is None or kind == "unsound"
        print(f"{'note' if kind else 'VULNERABLE'}: {package['name']} {package['version']}: "
              f"{about['id']}{f' ({kind})' if kind else ''}", file=sys.stderr)
    return failed


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
