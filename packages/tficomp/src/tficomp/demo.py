"""`graft-tficomp demo`: phantom and real-image pairs on the shipped weights, offline; what the gallery shows."""

from pathlib import Path
from typing import Any

import numpy as np

from graft_common import phantoms
from graft_common.console import Run, checked_out, progress, write_json
from graft_common.metrics import metrics_json
from graft_common.phantoms import Phantom
from graft_common.provenance import stamp
from tficomp.config import DemoConfig, MethodConfig
from tficomp.inputs import Sources, read_inputs
from tficomp.pipeline import compose_batch
from tficomp.records import Inputs
from tficomp.score import doing_nothing, score
from tficomp.weights import opened
from tficomp.write import write_panel, write_result

FIRST = 10_000_101  # held-out seeds from here upward, --seed further: the weights have not seen these pictures
BRAIN, BREAST = "An MRI scan of a cancerous brain", "An ultrasound image of a cancerous breast"


def demo_samples(seed: int = 0) -> list[Inputs]:
    """Two brains, a breast, and a real MR slice (pydicom's test file) that gets a phantom tumour."""
    first = FIRST + seed
    brain = phantoms.draw("brain", 128, first, tumor="none")
    tumour = phantoms.draw("brain", 128, first + 1, tumor="left")
    other = phantoms.draw("brain", 128, first + 2, tumor="none")
    second = phantoms.draw("brain", 128, first + 3, tumor="right")
    breast = phantoms.draw("ultrasound", 128, first + 4, lesion="none")
    lump = phantoms.draw("ultrasound", 128, first + 5, lesion="malignant")
    pairs: list[tuple[str, np.ndarray | Path, Phantom, str, str]] = [
        ("brain_1", brain.image, tumour, "tumor", BRAIN),
        ("brain_2", other.image, second, "tumor", BRAIN),
        ("breast", breast.image, lump, "lesion", BREAST),
        ("real_mr", real_slice(), tumour, "tumor", BRAIN),
    ]
    return [_sample(key, image, lesion, mask, prompt, first) for key, image, lesion, mask, prompt in pairs]


def real_slice() -> Path:
    """A real MR slice that pydicom installs, as DICOM."""
    from pydicom.data import get_testdata_file

    return Path(str(get_testdata_file("MR_small.dcm")))


def _sample(key: str, image: np.ndarray | Path, lesion: Phantom, mask: str, prompt: str, seed: int) -> Inputs:
    background = image if isinstance(image, Path) else image[..., 0]
    sources = Sources(background, (lesion.image[..., 0],), (lesion.masks[mask],), (), prompt, key=key, seed=seed)
    return read_inputs(sources)


def run_demo(config: DemoConfig, command: list[str]) -> dict[str, Any]:
    """Compose the samples with paste-back and write panel.png, metrics.json, run.json and a folder for each."""
    config.check()
    out = checked_out(config.out)
    record = Run(command, config, "graft-tficomp")
    settings = MethodConfig(
        weights=config.weights, device=config.device, dtype=config.dtype, compile=config.compile, seed=config.seed,
        canvas="background", paste_back=True,
    )  # fmt: skip
    bundle, network = opened(settings, record)
    with record.stage("read"):
        samples = demo_samples(config.seed)
        record.digests = {f"background_{s.key}": s.background.source.sha256 for s in samples}
    with progress("compose", 1, quiet=config.json) as advance:
        results = compose_batch(samples, settings, bundle, record=record, counter=network)
        advance(1)
    with record.stage("score"):
        values = score(samples, results, {})
        nothing = score(samples, [doing_nothing(r) for r in results], {})
    note = stamp("tficomp", config.seed, record.weights, record.digests)
    with record.stage("write"):
        for sample, result in zip(samples, results, strict=True):
            names = write_result(result, out / sample.key, note)
            record.outputs += [f"{sample.key}/{name}" for name in names]
        write_panel(list(zip(samples, results, strict=True)), out / "panel.png", "graft-tficomp demo (synthetic)", note)
        both = values | {f"{name}_of_doing_nothing": column for name, column in nothing.items() if name in values}
        write_json(
            out / "metrics.json", metrics_json("tficomp", "demo", both, {"perceptual": "tiny", "image_text": "tiny"})
        )
    record.outputs += ["panel.png", "metrics.json"]
    record.measures = {"network_calls": network.calls, "network_items": network.items}
    return record.write(out)
