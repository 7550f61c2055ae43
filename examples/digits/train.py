#!/usr/bin/env python3
"""Trains the handwritten-digit detector of this example and records what it must find.

Data: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
Repository (https://doi.org/10.24432/C50P49), CC BY 4.0, as shipped by scikit-learn's `load_digits`:
1797 real handwritten digits of 8x8 pixels. They are split by source image first, 75 % for training and
25 % held out (`split_digits`, seed SPLIT_SEED). Every page is composed of digits of one part only: the
training pages of the first, the committed validation pages of the second.

Commands, from the repository's root; the results are committed, so none is needed to build the example:

    python3 -m venv venv && venv/bin/pip install numpy pillow scikit-learn onnx onnxruntime torch
    venv/bin/python examples/digits/train.py train        # digits.onnx; minutes on a large GPU
    venv/bin/python examples/digits/train.py val          # pages/, pages_seed2/: PNG files and boxes.csv
    venv/bin/python examples/digits/train.py detections   # pages*/onnxruntime.csv, prints mAP@0.5

Pages are a function of (seed, page number, versions of numpy and Pillow). Training is seeded too, but GPU
arithmetic is not bit-reproducible: another run gives a model of the same quality, not the same bytes, and
then `detections` has to be run again.

The model
    input  `image` f32[1, 3, 256, 256]: RGB / 255. A grey page has three equal channels.
    output `head`  f32[1, 15, 32, 32]: raw numbers of an anchor-free head (the YOLOX form) of stride 8.
           channels 0..3 = tx, ty, tw, th; 4 = objectness; 5..14 = the classes 0..9.
Decoding, for column gx and row gy of the grid:
    centre x = (tx + gx) * 8,  centre y = (ty + gy) * 8,  width = exp(tw) * 8,  height = exp(th) * 8
    class = argmax of the class channels;  score = sigmoid(objectness) * sigmoid(class channel)
    x0 = centre x - width / 2, and so on, in pixels; pixel i covers [i, i + 1). Boxes are not clipped.
Non-maximum suppression: candidates with score >= 0.25, highest score first (ties: lower cell index gy * 32 + gx
first); a candidate is dropped when a kept one of the same class overlaps it with IoU > 0.45.

Files
    boxes.csv        page,digit,x0,y0,x1,y1: the tight box around each digit's ink, ends exclusive
    onnxruntime.csv  page,digit,score,x0,y0,x1,y1: detections of digits.onnx by ONNX Runtime on the CPU,
                     by page, highest score first
mAP@0.5 takes candidates with score >= 0.01, matches them by IoU >= 0.5 from the highest score down, each box
at most once, integrates precision over recall at all points, and averages over the ten classes.
"""

import argparse
import csv
import functools
import math
import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).resolve().parent

SPLIT_SEED = 1797
TRAIN_SEED = 20_000
VAL_SETS = {"pages": 64_001, "pages_seed2": 64_002}
EXTRA_SEED = 64_003
VAL_PAGES = 64

PAGE = 256
STRIDE = 8
GRID = PAGE // STRIDE
MIN_DIGITS, MAX_DIGITS = 8, 14
CLASSES = 10

SCORE_THRESHOLD = 0.25
MAP_SCORE_THRESHOLD = 0.01
NMS_IOU = 0.45

# Ranges of the page generator. Training sees more than validation, so that the edges of what validation
# draws from lie inside what was learnt.
VAL_STYLE = {"height": (24, 56), "noise": (1.0, 4.5), "contrast": (70, 190), "rotated": 0.3, "angle": 25}
TRAIN_STYLE = {"height": (21, 62), "noise": (0.5, 8.0), "contrast": (55, 200), "rotated": 0.4, "angle": 30}


# --- Digits ------------------------------------------------------------------------------------------


def split_digits():
    """`((images, labels) for training, (images, labels) held out)`; no source image is in both."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(SPLIT_SEED).permutation(len(data.target))
    cut = len(order) * 3 // 4
    parts = order[:cut], order[cut:]
    return tuple((data.images[p].astype(np.float32) / 16.0, data.target[p]) for p in parts)


GLYPH = 48


@functools.cache
def glyphs(held_out):
    """The digits of one part, bordered and enlarged fourfold to 48x48, with their labels."""
    images, labels = split_digits()[held_out]
    bordered = np.pad(images, ((0, 0), (2, 2), (2, 2)))
    enlarge = lambda image: Image.fromarray(image).resize((GLYPH, GLYPH), Image.Resampling.BICUBIC)
    return [enlarge(image) for image in bordered], labels


def uniform(rng, bounds):
    return float(rng.uniform(*bounds))


def draw_digit(rng, glyph, style, largest):
    """The coverage (0..1) of one transformed digit, cropped to its ink, or None if too little is left."""
    low, high = style["height"]
    height = uniform(rng, (low, min(high, largest)))
    scale_y = height / 32
    scale_x = scale_y * uniform(rng, (0.85, 1.15))
    shear = uniform(rng, (-0.3, 0.3))
    if rng.random() < style["rotated"]:
        angle = uniform(rng, (-style["angle"], style["angle"]))
    else:
        angle = uniform(rng, (-6, 6))
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    forward = np.array([[cos, -sin], [sin, cos]]) @ np.array([[1, shear], [0, 1]]) @ np.diag([scale_x, scale_y])
    inverse = np.linalg.inv(forward)
    side = 112
    offset = GLYPH / 2 - inverse @ np.array([side / 2, side / 2])
    coefficients = (*inverse[0], offset[0], *inverse[1], offset[1])
    patch = glyph.transform((side, side), Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC)
    # A steep ramp on the smooth enlargement gives strokes with firm edges; its foot sets their width.
    foot = uniform(rng, (0.18, 0.32))
    ramp = np.clip((np.asarray(patch) - foot) / uniform(rng, (0.2, 0.35)), 0, 1)
    cover = (ramp * ramp * (3 - 2 * ramp)).astype(np.float32)
    ink = cover > 0.4
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    if len(rows) < 16 or len(columns) < 3:
        return None
    return cover[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


# --- Pages -------------------------------------------------------------------------------------------


def smooth_field(rng, cells, amplitude):
    """A random field over the page that varies on the scale of PAGE / cells pixels."""
    coarse = rng.uniform(-amplitude, amplitude, (cells, cells)).astype(np.float32)
    return np.asarray(Image.fromarray(coarse).resize((PAGE, PAGE), Image.Resampling.BICUBIC))


def paper(rng, style):
    """The empty page and its mean brightness."""
    brightness = uniform(rng, (150, 240))
    page = brightness + smooth_field(rng, 3, uniform(rng, (2, 22))) + smooth_field(rng, 24, uniform(rng, (0, 5)))
    kind = rng.random()
    if kind < 0.45:
        spacing, phase = int(rng.integers(14, 34)), int(rng.integers(0, 14))
        depth = uniform(rng, (8, 45))
        page[phase::spacing] -= depth
        if rng.random() < 0.3:
            page[phase + 1 :: spacing] -= depth
        if kind < 0.15:
            page[:, phase::spacing] -= depth
        elif kind < 0.25:
            page[:, int(rng.integers(10, 60))] -= depth
    if rng.random() < 0.5:
        for _ in range(int(rng.integers(5, 50))):
            x, y = rng.integers(0, PAGE - 3, 2)
            h, w = rng.integers(1, 4, 2)
            page[y : y + h, x : x + w] -= uniform(rng, (10, 90))
    if rng.random() < 0.25:
        y, x = np.ogrid[:PAGE, :PAGE]
        centre_x, centre_y = rng.uniform(0, PAGE, 2)
        radius = uniform(rng, (15, 60))
        distance = ((x - centre_x) ** 2 + (y - centre_y) ** 2) / radius**2
        page = page - uniform(rng, (5, 30)) * np.clip(1.3 - distance, 0, 1)
    return page, brightness


def overlap(box, boxes):
    """IoU of one box with each of several."""
    if len(boxes) == 0:
        return np.zeros(0)
    boxes = np.asarray(boxes, dtype=np.float64)
    box = np.asarray(box, dtype=np.float64)
    size = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    inter = np.clip(size, 0, None).prod(1)
    return inter / ((box[2:] - box[:2]).prod() + (boxes[:, 2:] - boxes[:, :2]).prod(1) - inter)


def place_touching(rng, cover, ink, boxes):
    """A place where the digit's ink just meets that of a digit on the page, or None."""
    height, width = cover.shape
    x0, y0, x1, y1 = boxes[int(rng.integers(len(boxes)))]
    jitter = int(rng.integers(-6, 7))
    way = int(rng.integers(0, 4))
    if way < 3:
        step = 1 if way == 0 else -1
        x, y = (x0 - width - 2 if step == 1 else x1 + 2), (y0 + y1 - height) // 2 + jitter
        dx, dy = step, 0
    else:
        x, y = (x0 + x1 - width) // 2 + jitter, y1 + 2
        dx, dy = 0, -1
    for _ in range(14):
        box = (x, y, x + width, y + height)
        if min(x, y) < 1 or max(box[2:]) > PAGE - 1:
            return None
        if (ink[y : y + height, x : x + width] & (cover > 0.4)).any():
            return box if overlap(box, boxes).max() < 0.12 else None
        x, y = x + dx, y + dy
    return None


def place_apart(rng, cover, ink, boxes):
    """A random place where the digit's ink keeps clear of all other, or None."""
    height, width = cover.shape
    x, y = int(rng.integers(1, PAGE - width)), int(rng.integers(1, PAGE - height))
    box = (x, y, x + width, y + height)
    if boxes and overlap(box, boxes).max() >= 0.05:
        return None
    clear = not ink[max(y - 2, 0) : y + height + 2, max(x - 2, 0) : x + width + 2].any()
    return box if clear else None


def make_page(seed, number, held_out, style):
    """One page: `(grey u8[256, 256], boxes i32[n, 4] as x0 y0 x1 y1, labels i32[n])`."""
    images, labels = glyphs(held_out)
    rng = np.random.default_rng([seed, number])
    page, brightness = paper(rng, style)
    contrast = min(uniform(rng, style["contrast"]), brightness - 5)
    wanted = int(rng.integers(MIN_DIGITS, MAX_DIGITS + 1))
    ink = np.zeros((PAGE, PAGE), bool)
    coverage = np.zeros((PAGE, PAGE), np.float32)
    boxes, digits = [], []
    tries = 0
    # Digits that find no place make room for smaller ones, until the least number fits for certain.
    while len(boxes) < wanted and (tries < 120 or len(boxes) < MIN_DIGITS):
        tries += 1
        largest = 64 if tries < 60 else 30
        index = int(rng.integers(len(images)))
        cover = draw_digit(rng, images[index], style, largest)
        if cover is None:
            continue
        touching = bool(boxes) and rng.random() < 0.25
        for _ in range(12):
            box = (place_touching if touching else place_apart)(rng, cover, ink, boxes)
            if box is not None:
                break
        else:
            continue
        x0, y0, x1, y1 = box
        pressure = uniform(rng, (0.85, 1.0))
        coverage[y0:y1, x0:x1] = np.maximum(coverage[y0:y1, x0:x1], cover * pressure)
        ink[y0:y1, x0:x1] |= cover > 0.4
        boxes.append(box)
        digits.append(int(labels[index]))
    mottle = 1 + smooth_field(rng, 64, uniform(rng, (0, 0.15)))
    page = page - contrast * coverage * mottle
    page = page + rng.standard_normal((PAGE, PAGE), dtype=np.float32) * uniform(rng, style["noise"])
    grey = np.clip(np.rint(page), 0, 255).astype(np.uint8)
    return grey, np.array(boxes, np.int32), np.array(digits, np.int32)


def training_chunk(first, count, seed):
    """`count` training pages as arrays; unused rows of boxes have the label -1."""
    pages = np.empty((count, PAGE, PAGE), np.uint8)
    boxes = np.zeros((count, MAX_DIGITS, 4), np.float32)
    labels = np.full((count, MAX_DIGITS), -1, np.int64)
    for i in range(count):
        pages[i], page_boxes, digits = make_page(seed, first + i, 0, TRAIN_STYLE)
        boxes[i, : len(digits)] = page_boxes
        labels[i, : len(digits)] = digits
    return pages, boxes, labels


def training_pages(count, seed):
    chunk = 64
    jobs = [(first, min(chunk, count - first), seed) for first in range(0, count, chunk)]
    glyphs(0)
    with multiprocessing.get_context("fork").Pool() as pool:
        parts = pool.starmap(training_chunk, jobs, chunksize=1)
    return tuple(np.concatenate(arrays) for arrays in zip(*parts))


# --- Decoding and evaluation -------------------------------------------------------------------------


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def decode(head, score_threshold):
    """Raw head [15, 32, 32] to `(scores, classes, boxes)` as the header of this file defines."""
    values = head.astype(np.float64).reshape(5 + CLASSES, -1)
    cell = np.arange(GRID * GRID)
    centre = (values[:2] + np.stack([cell % GRID, cell // GRID])) * STRIDE
    half = np.exp(values[2:4]) * STRIDE / 2
    boxes = np.concatenate([centre - half, centre + half]).T
    classes = values[5:].argmax(0)
    scores = sigmoid(values[4]) * sigmoid(values[5:].max(0))
    keep = scores >= score_threshold
    return scores[keep], classes[keep], boxes[keep]


def suppress(scores, classes, boxes):
    """Class-wise greedy non-maximum suppression; indices kept, highest score first."""
    kept = []
    for i in np.argsort(-scores, kind="stable"):
        same = [k for k in kept if classes[k] == classes[i]]
        if not same or overlap(boxes[i], boxes[same]).max() <= NMS_IOU:
            kept.append(int(i))
    return kept


def run_model(model, pages):
    """The raw heads of grey pages, by ONNX Runtime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    heads = []
    for page in pages:
        image = np.broadcast_to(page.astype(np.float32) / np.float32(255), (1, 3, PAGE, PAGE))
        heads.append(session.run(["head"], {"image": np.ascontiguousarray(image)})[0][0])
    return heads


def detect(heads, score_threshold):
    """For each head a list of `(digit, score, box)`."""
    found = []
    for head in heads:
        scores, classes, boxes = decode(head, score_threshold)
        kept = suppress(scores, classes, boxes)
        found.append([(int(classes[k]), float(scores[k]), boxes[k]) for k in kept])
    return found


def mean_average_precision(found, truth):
    """mAP@0.5 over the classes, and the average precision of each."""
    per_class = []
    for digit in range(CLASSES):
        wanted = [boxes[labels == digit] for boxes, labels in truth]
        taken = [np.zeros(len(boxes), bool) for boxes in wanted]
        candidates = [(s, page, box) for page, items in enumerate(found) for d, s, box in items if d == digit]
        candidates.sort(key=lambda candidate: -candidate[0])
        hits = np.zeros(len(candidates))
        for i, (_, page, box) in enumerate(candidates):
            iou = np.where(taken[page], 0, overlap(box, wanted[page]))
            if len(iou) and iou.max() >= 0.5:
                taken[page][iou.argmax()] = True
                hits[i] = 1
        true = np.cumsum(hits)
        recall = true / max(sum(map(len, wanted)), 1)
        precision = true / np.arange(1, len(hits) + 1)
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        per_class.append(float((np.diff(recall, prepend=0) * envelope).sum()))
    return float(np.mean(per_class)), per_class


def report(name, heads, truth):
    value, per_class = mean_average_precision(detect(heads, MAP_SCORE_THRESHOLD), truth)
    print(f"{name}: {len(truth)} pages, {sum(len(b) for b, _ in truth)} digits, mAP@0.5 = {value:.4f}")
    print("  per digit:", " ".join(f"{ap:.3f}" for ap in per_class))
    return value


# --- Network and training ----------------------------------------------------------------------------


def build_network():
    """Backbone to stride 16 with CSP stages and pooling, merged back to one head of stride 8."""
    import torch
    from torch import nn

    def conv(inputs, outputs, kernel=3, stride=1):
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.03),
            nn.SiLU(),
        )

    class Bottleneck(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.body = nn.Sequential(conv(channels, channels), conv(channels, channels))

        def forward(self, x):
            return x + self.body(x)

    class Csp(nn.Module):
        def __init__(self, inputs, outputs, depth):
            super().__init__()
            half = outputs // 2
            self.main = nn.Sequential(conv(inputs, half, 1), *(Bottleneck(half) for _ in range(depth)))
            self.side = conv(inputs, half, 1)
            self.merge = conv(2 * half, outputs, 1)

        def forward(self, x):
            return self.merge(torch.cat([self.main(x), self.side(x)], 1))

    class PyramidPool(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.narrow = conv(channels, channels // 2, 1)
            self.pool = nn.MaxPool2d(5, 1, 2)
            self.widen = conv(channels * 2, channels, 1)

        def forward(self, x):
            levels = [self.narrow(x)]
            for _ in range(3):
                levels.append(self.pool(levels[-1]))
            return self.widen(torch.cat(levels, 1))

    class Detector(nn.Module):
        def __init__(self):
            super().__init__()
            self.to8 = nn.Sequential(
                conv(3, 16, stride=2), conv(16, 32, stride=2), Csp(32, 32, 1), conv(32, 64, stride=2), Csp(64, 64, 2)
            )
            self.to16 = nn.Sequential(conv(64, 96, stride=2), Csp(96, 96, 2), PyramidPool(96), conv(96, 64, 1))
            self.up = nn.Upsample(scale_factor=2, mode="nearest")
            self.merge = Csp(128, 64, 1)
            self.stem = conv(64, 64)
            self.box_branch = conv(64, 64)
            self.class_branch = nn.Sequential(conv(64, 64), conv(64, 64))
            self.head = nn.Conv2d(128, 5 + CLASSES, 1)
            # Start with boxes of about 32 pixels and nearly every cell empty.
            with torch.no_grad():
                self.head.weight.mul_(0.1)
                self.head.bias.zero_()
                self.head.bias[:2] = 0.5
                self.head.bias[2:4] = math.log(4)
                self.head.bias[4] = -4.5
                self.head.bias[5:] = -2.0

        def forward(self, image):
            fine = self.to8(image)
            coarse = self.to16(fine)
            both = self.stem(self.merge(torch.cat([self.up(coarse), fine], 1)))
            return self.head(torch.cat([self.box_branch(both), self.class_branch(both)], 1))

    return Detector()


def augment(pages):
    """u8 pages [N, 256, 256] on the device to f32 images [N, 3, 256, 256] in 0..1 under varied light."""
    import torch
    from torch.nn import functional

    count = len(pages)
    draw = lambda low, high: torch.empty(count, 1, 1, 1, device=pages.device).uniform_(low, high)
    x = pages[:, None].float() / 255
    blurred = functional.avg_pool2d(functional.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    x = torch.lerp(x, blurred, draw(-1.0, 1.0).clamp(min=0))
    x = x.clamp(1e-3, 1) ** draw(0.7, 1.4)
    x = (x - 0.5) * draw(0.75, 1.25) + 0.5 + draw(-0.12, 0.12)
    x = x + torch.randn_like(x) * draw(-0.03, 0.03).clamp(min=0)
    return x.clamp(0, 1).expand(-1, 3, -1, -1)


def loss_of(raw, boxes, labels):
    """Loss of raw heads [N, 15, 32, 32] against padded boxes [N, 14, 4] and labels [N, 14] (-1: none)."""
    import torch
    from torch.nn import functional

    raw = raw.float().flatten(2).transpose(1, 2)
    cell = torch.arange(GRID * GRID, device=raw.device)
    corner = torch.stack([cell % GRID, cell // GRID], 1).float()

    # A digit belongs to the 2x2 cells whose centres are nearest to its own, a contested cell to the nearer digit.
    centre = (boxes[..., :2] + boxes[..., 2:]) / (2 * STRIDE)
    offset = (corner + 0.5)[None, None] - centre[:, :, None]
    outside = (offset.abs().amax(-1) >= 1.0) | (labels < 0)[..., None]
    distance, owner = offset.square().sum(-1).masked_fill(outside, torch.inf).min(1)
    positive = distance < torch.inf
    page, place = positive.nonzero(as_tuple=True)
    owner = owner[page, place]
    total = max(len(page), 1)

    target, label = boxes[page, owner] / STRIDE, labels[page, owner]
    values, origin = raw[page, place], corner[place]
    size = target[:, 2:] - target[:, :2]
    encoded = torch.cat([(target[:, :2] + target[:, 2:]) / 2 - origin, size.log()], 1)
    middle, half = values[:, :2] + origin, values[:, 2:4].clamp(max=4).exp() / 2
    low, high = middle - half, middle + half
    inter = (torch.minimum(high, target[:, 2:]) - torch.maximum(low, target[:, :2])).clamp(min=0).prod(1)
    union = (2 * half).prod(1) + size.prod(1) - inter
    hull = (torch.maximum(high, target[:, 2:]) - torch.minimum(low, target[:, :2])).prod(1)
    giou = inter / union - (hull - union) / hull

    bce = functional.binary_cross_entropy_with_logits
    box_loss = (1 - giou).sum() * 3 + (values[:, :4] - encoded).abs().sum()
    object_loss = bce(raw[..., 4], positive.float(), reduction="sum")
    class_loss = bce(values[:, 5:], functional.one_hot(label, CLASSES).float(), reduction="sum")
    return torch.stack([box_loss, object_loss, class_loss]) / total


def train(out, pages_count, steps, batch, rate):
    """Trains on generated pages, writes `out/digits.onnx` and prints mAP on held-out pages."""
    start = time.time()
    pages, boxes, labels = training_pages(pages_count, TRAIN_SEED)
    print(f"{len(pages)} training pages, {(labels >= 0).sum()} digits, {time.time() - start:.1f} s", flush=True)

    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(TRAIN_SEED)
    torch.backends.cudnn.benchmark = True
    pages, boxes, labels = (torch.from_numpy(a).to(device) for a in (pages, boxes, labels))
    net = build_network().to(device, memory_format=torch.channels_last).train()
    average = build_network().to(device).eval()
    average.load_state_dict(net.state_dict())
    print(sum(p.numel() for p in net.parameters()), "parameters")

    decayed = [p for p in net.parameters() if p.dim() > 1]
    plain = [p for p in net.parameters() if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": 0.03}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=rate, fused=device.type == "cuda")
    warmup = min(300, steps // 10 + 1)

    def factor(step):
        if step < warmup:
            return (step + 1) / warmup
        return 0.01 + 0.99 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1))) / 2

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    own = [t for t in net.state_dict().values() if t.is_floating_point()]
    averaged = [t for t in average.state_dict().values() if t.is_floating_point()]
    order, at = torch.randperm(len(pages), device=device), 0
    for step in range(steps):
        if at + batch > len(order):
            order, at = torch.randperm(len(pages), device=device), 0
        pick, at = order[at : at + batch], at + batch
        image = augment(pages[pick]).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            raw = net(image)
        parts = loss_of(raw, boxes[pick], labels[pick])
        optimizer.zero_grad(set_to_none=True)
        parts.sum().backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 10.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            torch._foreach_lerp_(averaged, own, 1 - min(0.999, (step + 1) / (step + 10)))
        if step % 250 == 0 or step == steps - 1:
            box, presence, digit = parts.tolist()
            seconds = time.time() - start
            print(f"{seconds:6.1f} s  step {step:5}  box {box:.3f}  object {presence:.3f}  class {digit:.3f}", flush=True)

    model = Path(out) / "digits.onnx"
    average = average.cpu().float()
    example = torch.zeros(1, 3, PAGE, PAGE)
    torch.onnx.export(
        average, (example,), str(model), opset_version=17, input_names=["image"], output_names=["head"], dynamo=False
    )
    print(model, os.path.getsize(model), "bytes")
    for name, seed, count in [*((n, s, VAL_PAGES) for n, s in VAL_SETS.items()), ("another seed", EXTRA_SEED, 512)]:
        held_out = [make_page(seed, number, 1, VAL_STYLE) for number in range(count)]
        report(name, run_model(model, [p[0] for p in held_out]), [p[1:] for p in held_out])


# --- Committed pages and detections ------------------------------------------------------------------


def write_csv(path, header, rows):
    with open(path, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def write_validation(out):
    for name, seed in VAL_SETS.items():
        folder = Path(out) / name
        folder.mkdir(parents=True, exist_ok=True)
        rows = []
        for number in range(VAL_PAGES):
            grey, boxes, labels = make_page(seed, number, 1, VAL_STYLE)
            Image.fromarray(grey).save(folder / f"{number:03}.png", optimize=True)
            rows += [[f"{number:03}", label, *box] for label, box in zip(labels.tolist(), boxes.tolist())]
        write_csv(folder / "boxes.csv", ["page", "digit", "x0", "y0", "x1", "y1"], rows)
        print(f"{folder}: {len(rows)} digits, {sum(f.stat().st_size for f in folder.glob('*.png'))} bytes of PNG")


def write_detections(out):
    for name in VAL_SETS:
        folder = Path(out) / name
        truth = {page.stem: ([], []) for page in sorted(folder.glob("*.png"))}
        with open(folder / "boxes.csv", newline="") as file:
            for row in csv.DictReader(file):
                truth[row["page"]][0].append([int(row[c]) for c in ("x0", "y0", "x1", "y1")])
                truth[row["page"]][1].append(int(row["digit"]))
        pages = [np.asarray(Image.open(folder / f"{stem}.png")) for stem in truth]
        heads = run_model(Path(out) / "digits.onnx", pages)
        report(name, heads, [(np.array(b), np.array(d)) for b, d in truth.values()])
        rows = []
        for stem, items in zip(truth, detect(heads, SCORE_THRESHOLD)):
            rows += [[stem, d, f"{score:.6f}", *(f"{v:.4f}" for v in box)] for d, score, box in items]
        write_csv(folder / "onnxruntime.csv", ["page", "digit", "score", "x0", "y0", "x1", "y1"], rows)
        print(f"  {len(rows)} detections with score >= {SCORE_THRESHOLD}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("train", help="train and export digits.onnx")
    command.add_argument("--pages", type=int, default=40_000, help="training pages to generate")
    command.add_argument("--steps", type=int, default=8_000)
    command.add_argument("--batch", type=int, default=128)
    command.add_argument("--rate", type=float, default=2e-3, help="highest learning rate")
    commands.add_parser("val", help="write the validation pages and their boxes")
    commands.add_parser("detections", help="record what ONNX Runtime finds on them, print mAP")
    for command in commands.choices.values():
        command.add_argument("--out", default=HERE, help="folder for the results")
    arguments = vars(parser.parse_args())
    action = {"train": train, "val": write_validation, "detections": write_detections}[arguments.pop("command")]
    renamed = {"pages": "pages_count"}
    action(**{renamed.get(key, key): value for key, value in arguments.items()})


if __name__ == "__main__":
    main()
