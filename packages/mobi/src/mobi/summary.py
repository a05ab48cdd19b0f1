"""Rows of cases -> tables with intervals, and what they say about each promise."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from mobi.answers import COLOUR, MIDDLE, SOLID, TRUTH
from mobi.range_table import ADAPTED, IMAGE_VAE, ROWS
from mobi.trial import APART, FLOOR, FREE, NO_BOX, REMOVED, REPLACED, RIGHT, SAME, TRACKED

Row = Mapping[str, Any]
Summary = dict[str, Any]
Table = dict[str, dict[str, Summary]]
RESAMPLES = 2000
NEAR, FLIPPED = 30.0, 90.0  # degrees
TURN_LIMIT = round(np.pi / 18, 4)  # ten degrees, radians
GROUPS = 20


def values(rows: Sequence[Row], name: str, key: str) -> list[float]:
    """A measure of one painting, of the cases where it could be counted."""
    found = [row["scores"].get(name, {}).get(key) for row in rows]
    return [float(v) for v in found if v is not None]


def pairs_of(rows: Sequence[Row], one: tuple[str, str], other: tuple[str, str]) -> tuple[list[float], list[float]]:
    """Two measures, of the cases where both could be counted."""
    both = [(row["scores"].get(one[0], {}).get(one[1]), row["scores"].get(other[0], {}).get(other[1])) for row in rows]
    kept = [(a, b) for a, b in both if a is not None and b is not None]
    return [float(a) for a, _ in kept], [float(b) for _, b in kept]


def table(rows: Sequence[Row], fid: str = "fid_tiny", seed: int = 0) -> Table:
    """Painting -> measure -> {"mean", "ci95", "n"} of the rows of one class; yaw as shares (Wilson) and a median; and what the
    detector says of reinserted objects less what it says of the originals, paired.

    Args:
        fid: name of the Frechet distance with its network.
    """
    from graft_common.metrics import bootstrap, proportion

    out: Table = {}
    names = list(dict.fromkeys(name for row in rows for name in row["scores"]))
    for name in names:
        keys = dict.fromkeys(key for row in rows for key in row["scores"].get(name, {}))
        cells: dict[str, Summary] = {}
        for key in keys:
            found = values(rows, name, key)
            if not found:
                continue
            if key in ("found", "flagged"):
                cells[key] = proportion(int(sum(found)), len(found))
            elif key == "yaw_gap":
                gaps = np.array(found)
                cells["yaw_near"] = proportion(int((gaps <= NEAR).sum()), len(gaps))
                cells["yaw_flipped"] = proportion(int((gaps > FLIPPED).sum()), len(gaps))
                cells["yaw_median"] = resampled(gaps, lambda part: float(np.median(part)), seed)
            else:
                cells[key] = bootstrap(found, seed)
        out[name] = cells
    for name, summary in frechets(rows, seed).items():
        out[name][fid] = summary
    for name in (SAME, TRACKED, FREE):
        apart = {key: difference(rows, (name, key), (TRUTH, key), seed) for key in BOXES}
        if any(apart.values()):
            out[f"{name} less original"] = {key: gap for key, gap in apart.items() if gap is not None}
    return out


def resampled(column: Float[np.ndarray, "n *c"], statistic: Callable[[Any], float], seed: int = 0) -> Summary:
    """A statistic of the rows of `column` with its percentile bootstrap interval."""
    rng = np.random.default_rng([seed, 41])
    draws = [statistic(column[rng.integers(len(column), size=len(column))]) for _ in range(RESAMPLES)]
    low, high = np.quantile(draws, [0.025, 0.975])
    return {"mean": float(statistic(column)), "ci95": [float(low), float(high)], "n": len(column)}


def frechets(rows: Sequence[Row], seed: int = 0) -> dict[str, Summary]:
    """Frechet distance of each painting's composited patches to the original ones, with Student's interval around a grouped
    jackknife (a bootstrap repeats items, which a Frechet distance takes for less spread)."""
    from graft_common.metrics import frechet, jackknifed

    true = np.array([row["features"][TRUTH] for row in rows])
    out: dict[str, Summary] = {}
    names = [n for n in rows[0]["features"] if n != TRUTH and all(n in row["features"] for row in rows)]
    for name in names:
        made = np.array([row["features"][name] for row in rows])
        if len(rows) < 4:  # a group left out would leave one vector, which has no spread
            value = frechet(made, true)
            out[name] = {"mean": value, "ci95": [value, value], "n": len(rows)}
        else:

            def apart(kept: Any, made: Any = made) -> float:
                return frechet(made[kept], true[kept])

            out[name] = jackknifed(apart, len(rows), seed, min(GROUPS, len(rows) // 2))
    return out


def range_ratio(rows: Sequence[Row], seed: int = 0) -> Summary | None:
    """Mean object depth error of the first row of the range table over that of the last; resampled by cases."""
    name = "range autoencoder"
    first, last = pairs_of(rows, (name, f"{IMAGE_VAE}: depth_object"), (name, f"{ADAPTED}: depth_object"))
    if not first or not any(last):
        return None
    column = np.array([first, last]).T
    return resampled(column, lambda part: float(part[:, 0].mean() / max(part[:, 1].mean(), 1e-9)), seed)


def difference(rows: Sequence[Row], one: tuple[str, str], other: tuple[str, str], seed: int = 0) -> Summary | None:
    """Mean of one - other over the same cases; None where no case has both."""
    from graft_common.metrics import paired_difference

    a, b = pairs_of(rows, one, other)
    return paired_difference(a, b, seed) if a else None


DEPTH = {"car": (0.5, 0.3), "pedestrian": (0.2, 0.12)}  # metres: floor, aim


def findings(rows: Sequence[Row], label: str, cells: Table, seed: int = 0) -> list[dict[str, Any]]:
    """The promises of one class that can be asked of these rows: {"what", "value", "wanted", "holds", "aim", "aim_reached"}.

    A bound is held against the mean; a comparison holds where the interval of the paired difference leaves zero out. Nothing
    holds of which fewer than half of the cases could be counted: who paints nothing has no depth error.
    """
    out: list[dict[str, Any]] = []

    def note(what: str, value: Summary, wanted: str, holds: bool, aim: float | None, reached: bool | None) -> None:
        enough = 2 * value["n"] >= len(rows)
        said = {"holds": holds and enough, "aim": aim, "aim_reached": None if reached is None else reached and enough}
        out.append({"what": what, "value": value, "wanted": wanted} | said)

    def ask(what: str, value: Summary | None, bound: int | float, up: bool, aim: float | None = None) -> None:
        if value is not None:
            sign = 1 if up else -1
            holds, reached = (None if b is None else bool(sign * value["mean"] >= sign * b) for b in (bound, aim))
            note(what, value, f"{'>=' if up else '<='} {bound:g}", bool(holds), aim, reached)

    def compare(what: str, one: tuple[str, str], other: tuple[str, str], up: bool) -> None:
        value = difference(rows, one, other, seed)
        if value is not None:
            low, high = value["ci95"]
            holds, wanted = (low > 0, "> 0") if up else (high < 0, "< 0")
            note(what, value, wanted, bool(holds), None, None)

    drawn = cells.get(TRUTH, {})
    if label == "car":  # judges that err on true renders say nothing about painted ones
        ask("judge of yaw on true renders: median error (degrees)", drawn.get("yaw_median"), 8, False)
        ask("judge of yaw on true renders: off by more than 90 degrees", drawn.get("yaw_flipped"), 0.02, False)
        ask("detector on true renders: recall", drawn.get("found"), 0.9, True)
        ask("detector on true renders: ATE (m)", drawn.get("ate"), 0.3, False)
        ask("detector on true renders: AOE (rad)", drawn.get("aoe"), TURN_LIMIT, False)
    ask("range autoencoder: object depth error, first row over last", range_ratio(rows, seed), 4, True)
    for name in (SAME, TRACKED, REPLACED, FREE):
        mine, depth = cells.get(name, {}), DEPTH.get(label)
        for key in ("camera_index", "lidar_index"):
            ask(f"{name}: {key.replace('_', ' ')}", mine.get(key), 0.4, True, 0.7)
        if depth is not None:
            ask(f"{name}: depth error (m)", mine.get("depth_error"), depth[0], False, depth[1])
        compare(f"{name}: depth error less mid-depth's (m)", (name, "depth_error"), (MIDDLE, "depth_error"), False)
        compare(f"{name}: lidar index above mid-depth's", (name, "lidar_index"), (MIDDLE, "lidar_index"), True)
        if name != REPLACED:  # whose object has another shape than the truth
            for key in ("camera_index", "lidar_index"):  # a network that sees the box alone fills it
                compare(f"{name}: {key.replace('_', ' ')} above the solid box's", (name, key), (SOLID, key), True)
            compare(f"{name}: depth error less the solid box's (m)", (name, "depth_error"), (SOLID, "depth_error"), False)
        ask(f"{name}: yaw within 30 degrees", mine.get("yaw_near"), 0.7, True, 0.85)
        ask(f"{name}: yaw off by more than 90 degrees", mine.get("yaw_flipped"), 0.2, False, 0.1)
    for start, one, other in (("", TRACKED, NO_BOX), *((f"{n}: ", n, f"{n}, {NO_BOX}") for n in (REPLACED, FREE))):
        for key in ("camera_index", "lidar_index"):
            compare(f"{start}{key.replace('_', ' ')} with the box above without", (one, key), (other, key), True)
        compare(f"{start}yaw gap with the box less without (degrees)", (one, "yaw_gap"), (other, "yaw_gap"), False)
    gone = cells.get(REMOVED, {})
    ask("removal: left in the silhouette", gone.get("camera_left"), 0.25, False)
    ask("removal: returns left standing in the box", gone.get("standing_share"), 0.05, False)
    ask("removal: rays that return behind the object", gone.get("behind"), 0.7, True)
    ask("removal: error of those (m)", gone.get("behind_error"), 1, False)
    ask("consistency F1 of true silhouette and true lidar", cells.get(RIGHT, {}).get("joint_f1"), 0.9, True)
    for name in (FLOOR, APART, COLOUR):
        compare(f"consistency F1 above that of {name}", (TRACKED, "joint_f1"), (name, "joint_f1"), True)
    for name in (REPLACED, FREE):
        other = f"{name}, {APART}"
        compare(f"{name}: consistency F1 above that of {APART}", (name, "joint_f1"), (other, "joint_f1"), True)
    return out


SHAPE = ("camera_recall", "camera_specificity", "camera_index", "camera_iou", "lidar_index", "lidar_iou", "depth_error")
TURN = ("yaw_near", "yaw_flipped", "yaw_median")
JOINT = ("joint_precision", "joint_recall", "joint_f1")
BOXES = ("found", "ate", "ase", "aoe")
GONE = ("camera_left", "standing_share", "behind", "behind_error")
RANGE = ("depth_object", "depth_mask", "intensity_object", "intensity_mask")


def markdown(tables: Mapping[str, Table], found: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """All tables as text."""
    lines: list[str] = []
    for label, cells in tables.items():
        looks = tuple(dict.fromkeys(k for c in cells.values() for k in c if "lpips" in k or k.startswith(("clip_i", "fid"))))
        for title, keys in (
            ("shape and depth", SHAPE), ("yaw", TURN), ("consistency", JOINT), ("detector", BOXES), ("removal", GONE),
            ("realism", looks),
        ):  # fmt: skip
            lines += block(f"{label}: {title}", cells, keys)
        ranges = cells.get("range autoencoder", {})
        split = {row: {key: ranges[f"{row}: {key}"] for key in RANGE if f"{row}: {key}" in ranges} for row in ROWS}
        lines += block(f"{label}: range autoencoder", split, RANGE)
        if found.get(label):
            lines += [f"| {label}: promise | value | n | wanted | holds | aim |", "|---" * 6 + "|"]
            for f in found[label]:
                aim = "" if f["aim"] is None else f"{f['aim']:g} {'reached' if f['aim_reached'] else 'missed'}"
                held, n = "yes" if f["holds"] else "no", f["value"]["n"]
                lines.append(f"| {f['what']} | {cell(f['value'])} | {n} | {f['wanted']} | {held} | {aim} |")
            lines.append("")
    return "\n".join(lines)


def block(title: str, cells: Mapping[str, Mapping[str, Summary]], keys: Sequence[str]) -> list[str]:
    """One table of the rows that have any of the columns."""
    rows = {name: row for name, row in cells.items() if any(key in row for key in keys)}
    keys = [key for key in keys if any(key in row for row in rows.values())]
    if not rows or not keys:
        return []
    out = [f"| {title} | {' | '.join(k.replace('_', ' ') for k in keys)} |", "|---" * (len(keys) + 1) + "|"]
    out += [f"| {name} | {' | '.join(cell(row.get(k)) for k in keys)} |" for name, row in rows.items()]
    return [*out, ""]


def cell(summary: Mapping[str, Any] | None) -> str:
    """mean [low, high]."""
    if summary is None:
        return ""
    low, high = summary["ci95"]
    digits = 1 if abs(summary["mean"]) >= 10 else 3
    return f"{summary['mean']:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
