#!/usr/bin/env python3
"""Makes the models of this crate and ONNX Runtime's outputs for them, below data/.

    python3 -m venv target/venv && target/venv/bin/pip install onnx onnxruntime numpy pillow
    target/venv/bin/python tests/models/prepare.py SHARED

SHARED is a folder with models/graphs, models/real and tools/fill_weights.py (architectures exported from PyTorch,
whose weights are filled in with seeded values, and small models with trained weights).
"""
import pathlib
import subprocess
import sys

import numpy as np
import onnxruntime
from PIL import Image

GRAPHS = ["resnet50", "mobilenet_v2", "yolov3_608", "yolov3_416_dyn", "minilm_l6", "unet", "lstm_ctc", "ssdlite320"]
TRAINED = ["mnist_8", "lenet5_quantized", "micro_kws_m_fp32", "micro_kws_m_qdq", "silero_vad_16k"]
FACES = ["ultraface_rfb_320", "ultraface_rfb_320_simplified"]


def faces(shared, data, name):
    """The face detector on a photograph: 320x240, (rgb - 127) / 128."""
    source = shared / "models" / "real"
    (data / f"{name}.onnx").write_bytes((source / f"{name}.onnx").read_bytes())
    picture = Image.open(source / "images" / "people.jpg").convert("RGB").resize((320, 240), Image.BILINEAR)
    pixels = (np.asarray(picture, np.float32) - 127) / 128
    image = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])
    session = onnxruntime.InferenceSession(data / f"{name}.onnx", providers=["CPUExecutionProvider"])
    case = data / f"{name}.case0"
    case.mkdir(exist_ok=True)
    np.save(case / "input_0.npy", image)
    for index, output in enumerate(session.run(None, {session.get_inputs()[0].name: image})):
        np.save(case / f"output_{index}.npy", output)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    shared = pathlib.Path(sys.argv[1]).resolve()
    data = pathlib.Path(__file__).resolve().parent / "data"
    data.mkdir(exist_ok=True)
    sources = {name: shared / "models" / "graphs" / name / "model.onnx" for name in GRAPHS}
    sources |= {name: shared / "models" / "real" / f"{name}.onnx" for name in TRAINED}
    for name, graph in sources.items():
        if not (data / f"{name}.case0" / "output_0.npy").exists():
            fill = shared / "tools" / "fill_weights.py"
            subprocess.run([sys.executable, fill, graph, data / f"{name}.onnx", "--cases", "1"], check=True)
    for name in FACES:
        faces(shared, data, name)


if __name__ == "__main__":
    main()
