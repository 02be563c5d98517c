// A picture with a mask that is painted on it: brush, eraser, shapes, zoom, undo; and a before/after view.
// The mask is one byte a pixel of the picture, 0 or 1, so that what is sent is exactly what was painted.

const MARK = [224, 43, 32];
const MOST_UNDOS = 60;
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

/** A canvas of a size that is never shown itself. */
function sheet(width, height) {
  const made = document.createElement("canvas");
  made.width = width;
  made.height = height;
  return made;
}

/** Outline of a mask as a path: every edge between a pixel inside and one outside. */
function outlineOf(mask, width, height) {
  const path = new Path2D();
  const at = (x, y) => x >= 0 && y >= 0 && x < width && y < height && mask[y * width + x];
  for (let y = 0; y <= height; y++) {
    let start = -1; // runs of horizontal edges are drawn as one line
    for (let x = 0; x <= width; x++) {
      const edge = x < width && Boolean(at(x, y)) !== Boolean(at(x, y - 1));
      if (edge && start < 0) start = x;
      if (!edge && start >= 0) { path.moveTo(start, y); path.lineTo(x, y); start = -1; }
    }
  }
  for (let x = 0; x <= width; x++) {
    let start = -1;
    for (let y = 0; y <= height; y++) {
      const edge = y < height && Boolean(at(x, y)) !== Boolean(at(x - 1, y));
      if (edge && start < 0) start = y;
      if (!edge && start >= 0) { path.moveTo(x, start); path.lineTo(x, y); start = -1; }
    }
  }
  return path;
}

/** A mask as a coloured sheet. */
function coloured(mask, width, height) {
  const made = sheet(width, height);
  const context = made.getContext("2d");
  const image = context.createImageData(width, height);
  for (let index = 0; index < mask.length; index++) {
    if (mask[index]) image.data.set([...MARK, 110], index * 4);
  }
  context.putImageData(image, 0, 0);
  return made;
}

export class MaskCanvas {
  /**
   * @param {HTMLElement} host is filled by the canvas.
   * @param {{label: string, onChange?: Function, onShape?: Function, onTool?: Function}} options
   */
  constructor(host, { label, onChange = () => {}, onShape = () => {}, onTool = () => {} }) {
    Object.assign(this, { host, onChange, onShape, onTool });
    this.canvas = document.createElement("canvas");
    this.canvas.tabIndex = 0;
    this.canvas.setAttribute("role", "application");
    this.canvas.setAttribute("aria-label", label);
    host.prepend(this.canvas);
    this.context = this.canvas.getContext("2d");
    this.width = this.height = 0;
    this.mask = new Uint8Array(0);
    this.tool = "brush";
    this.size = 16;
    this.view = { scale: 1, x: 0, y: 0 };
    this.result = null;
    this.split = 0;
    this.outlined = true;
    this.comparing = false;
    this.shape = null;
    this.done = [];
    this.undone = [];
    this.pointers = new Map();
    this.cursor = null;
    this.pen = null;
    this.keyPen = false;
    new ResizeObserver(() => this.resize()).observe(host);
    this.listen();
  }

  // ---- pictures -------------------------------------------------------------------------------------------------

  /** Show a picture with an empty mask, or one that is given. */
  setPicture(picture, mask = null) {
    this.picture = picture;
    this.width = picture.width;
    this.height = picture.height;
    this.mask = mask ?? new Uint8Array(this.width * this.height);
    this.layer = sheet(this.width, this.height);
    this.layerContext = this.layer.getContext("2d");
    this.done = [];
    this.undone = [];
    this.shape = null;
    this.cursor = { x: this.width / 2, y: this.height / 2 };
    this.setResult(null);
    this.paintLayer(0, 0, this.width, this.height);
    this.resize();
    this.fit();
    this.changed();
    this.onShape(null);
  }

  /** A result: the picture with a patch at (left, top); null takes it away. */
  setResult(patch, left = 0, top = 0) {
    this.result = null;
    if (patch) {
      this.result = sheet(this.width, this.height);
      const context = this.result.getContext("2d");
      context.drawImage(this.picture, 0, 0);
      context.drawImage(patch, left, top);
    }
    this.comparing = Boolean(patch);
    this.draw();
  }

  /** Compare the result with the source instead of painting. */
  compare(on) {
    this.comparing = on && Boolean(this.result);
    this.draw();
  }

  /** Number of mask pixels, with the shape that is not placed yet. */
  get area() {
    let sum = 0;
    for (const value of this.mask) sum += value;
    return sum;
  }

  get isEmpty() { return !this.shape && !this.mask.includes(1); }

  /** The mask as a PNG, after placing a shape that is still loose. */
  async png() {
    this.placeShape();
    const made = sheet(this.width, this.height);
    const context = made.getContext("2d");
    const image = context.createImageData(this.width, this.height);
    for (let index = 0; index < this.mask.length; index++) {
      const value = this.mask[index] ? 255 : 0;
      image.data[index * 4] = image.data[index * 4 + 1] = image.data[index * 4 + 2] = value;
      image.data[index * 4 + 3] = 255;
    }
    context.putImageData(image, 0, 0);
    return new Promise((resolve) => made.toBlob(resolve, "image/png"));
  }

  // ---- view -----------------------------------------------------------------------------------------------------

  resize() {
    const ratio = window.devicePixelRatio || 1;
    const { clientWidth, clientHeight } = this.host;
    if (!clientWidth) return;
    const wasFit = this.isFit;
    this.canvas.width = Math.round(clientWidth * ratio);
    this.canvas.height = Math.round(clientHeight * ratio);
    if (this.width && wasFit !== false) this.fit();
    this.draw();
  }

  /** Show the whole picture. */
  fit() {
    if (!this.width || !this.host.clientWidth) return;
    const scale = Math.min(this.host.clientWidth / this.width, this.host.clientHeight / this.height) * 0.96;
    this.view = {
      scale,
      x: (this.host.clientWidth - this.width * scale) / 2,
      y: (this.host.clientHeight - this.height * scale) / 2,
    };
    this.isFit = true;
    this.draw();
  }

  /** Zoom by a factor around a point of the host, its middle if left out. */
  zoom(factor, x = this.host.clientWidth / 2, y = this.host.clientHeight / 2) {
    const scale = clamp(this.view.scale * factor, 0.05, 40);
    const real = scale / this.view.scale;
    this.view = { scale, x: x - (x - this.view.x) * real, y: y - (y - this.view.y) * real };
    this.isFit = false;
    this.draw();
  }

  pan(dx, dy) {
    this.view.x += dx;
    this.view.y += dy;
    this.isFit = false;
    this.draw();
  }

  /** A point of the host in the picture's pixels. */
  toPicture(x, y) {
    return { x: (x - this.view.x) / this.view.scale, y: (y - this.view.y) / this.view.scale };
  }

  draw() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => { this.waiting = false; this.drawNow(); });
  }

  drawNow() {
    const { context, view, canvas } = this;
    const ratio = window.devicePixelRatio || 1;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    if (!this.picture) return;
    context.setTransform(ratio * view.scale, 0, 0, ratio * view.scale, ratio * view.x, ratio * view.y);
    context.imageSmoothingEnabled = view.scale < 3;
    context.imageSmoothingQuality = "high";
    if (this.comparing) this.drawComparison();
    else {
      context.drawImage(this.picture, 0, 0);
      context.imageSmoothingEnabled = false;
      context.drawImage(this.layer, 0, 0);
    }
    if (this.outlined || !this.comparing) this.drawOutline();
    if (!this.comparing) {
      this.drawShape();
      this.drawCursor();
    }
  }

  drawComparison() {
    const { context } = this;
    const edge = this.split * this.width;
    context.drawImage(this.result, 0, 0);
    context.save();
    context.beginPath();
    context.rect(0, 0, edge, this.height);
    context.clip();
    context.drawImage(this.picture, 0, 0);
    context.restore();
    if (edge > 0 && edge < this.width) {
      context.strokeStyle = "#fff";
      context.lineWidth = 3 / this.view.scale;
      context.beginPath();
      context.moveTo(edge, 0);
      context.lineTo(edge, this.height);
      context.stroke();
      context.strokeStyle = "#0a58b8";
      context.lineWidth = 1.5 / this.view.scale;
      context.stroke();
      this.label("before", edge, -1);
      this.label("after", edge, 1);
    }
  }

  /** A word beside the line between before and after. */
  label(text, edge, side) {
    const { context } = this;
    const unit = 1 / this.view.scale;
    context.font = `600 ${13 * unit}px system-ui, sans-serif`;
    const width = context.measureText(text).width + 12 * unit;
    const left = side < 0 ? edge - width - 6 * unit : edge + 6 * unit;
    context.fillStyle = "rgb(20 24 28 / 78%)";
    context.fillRect(left, 8 * unit, width, 21 * unit);
    context.fillStyle = "#fff";
    context.fillText(text, left + 6 * unit, 23 * unit);
  }

  drawOutline() {
    this.outline ??= outlineOf(this.mask, this.width, this.height);
    this.context.strokeStyle = `rgb(${MARK.join(" ")})`;
    this.context.lineWidth = 1.6 / this.view.scale;
    this.context.stroke(this.outline);
  }

  drawCursor() {
    const { context, cursor } = this;
    if (!cursor || this.shape || this.tool === "move" || !(this.over || document.activeElement === this.canvas)) return;
    for (const [colour, width] of [["#fff", 3], ["#111", 1.2]]) {
      context.strokeStyle = colour;
      context.lineWidth = width / this.view.scale;
      context.beginPath();
      context.arc(cursor.x, cursor.y, Math.max(this.size / 2, 0.5), 0, 2 * Math.PI);
      context.stroke();
    }
  }

  // ---- painting -------------------------------------------------------------------------------------------------

  setTool(tool) {
    this.tool = tool;
    this.keyPen = false;
    this.canvas.style.cursor = tool === "move" ? "grab" : "crosshair";
    this.onTool(tool);
    this.draw();
  }

  begin() {
    this.before = this.mask.slice();
    this.touched = null;
  }

  /** Paint a line of the brush's width in the mask, from one point of the picture to another. */
  stroke(from, to, value) {
    const radius = Math.max(this.size / 2, 0.5);
    const left = clamp(Math.floor(Math.min(from.x, to.x) - radius), 0, this.width);
    const right = clamp(Math.ceil(Math.max(from.x, to.x) + radius), 0, this.width);
    const top = clamp(Math.floor(Math.min(from.y, to.y) - radius), 0, this.height);
    const bottom = clamp(Math.ceil(Math.max(from.y, to.y) + radius), 0, this.height);
    const dx = to.x - from.x, dy = to.y - from.y;
    const length = dx * dx + dy * dy;
    for (let y = top; y < bottom; y++) {
      for (let x = left; x < right; x++) {
        const px = x + 0.5 - from.x, py = y + 0.5 - from.y;
        const along = length ? clamp((px * dx + py * dy) / length, 0, 1) : 0;
        const ax = px - along * dx, ay = py - along * dy;
        if (ax * ax + ay * ay <= radius * radius) this.mask[y * this.width + x] = value;
      }
    }
    this.touch(left, top, right, bottom);
  }

  touch(left, top, right, bottom) {
    if (right <= left || bottom <= top) return;
    const old = this.touched ?? [left, top, right, bottom];
    this.touched = [Math.min(old[0], left), Math.min(old[1], top), Math.max(old[2], right), Math.max(old[3], bottom)];
    this.outline = null;
    this.paintLayer(left, top, right - left, bottom - top);
    this.draw();
  }

  paintLayer(left, top, width, height) {
    this.outline = null;
    if (!width || !height) return;
    const image = this.layerContext.createImageData(width, height);
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        if (this.mask[(top + y) * this.width + left + x]) image.data.set([...MARK, 95], (y * width + x) * 4);
      }
    }
    this.layerContext.putImageData(image, left, top);
  }

  /** The end of a change: what it touched can be undone. */
  finish() {
    if (this.touched) {
      const [left, top, right, bottom] = this.touched;
      this.done.push({ box: this.touched, before: this.cut(this.before, left, top, right, bottom), after: this.cut(this.mask, left, top, right, bottom) });
      if (this.done.length > MOST_UNDOS) this.done.shift();
      this.undone = [];
    }
    this.before = this.touched = null;
    this.changed();
  }

  cut(mask, left, top, right, bottom) {
    const part = new Uint8Array((right - left) * (bottom - top));
    for (let y = top; y < bottom; y++) part.set(mask.subarray(y * this.width + left, y * this.width + right), (y - top) * (right - left));
    return part;
  }

  put(part, [left, top, right, bottom]) {
    for (let y = top; y < bottom; y++) this.mask.set(part.subarray((y - top) * (right - left), (y - top + 1) * (right - left)), y * this.width + left);
    this.paintLayer(left, top, right - left, bottom - top);
    this.draw();
  }

  undo() {
    if (this.shape) { this.dropShape(); return; }
    const step = this.done.pop();
    if (!step) return;
    this.undone.push(step);
    this.put(step.before, step.box);
    this.changed();
  }

  redo() {
    const step = this.undone.pop();
    if (!step) return;
    this.done.push(step);
    this.put(step.after, step.box);
    this.changed();
  }

  clear() {
    this.dropShape();
    this.begin();
    this.mask.fill(0);
    this.touch(0, 0, this.width, this.height);
    this.finish();
  }

  changed() {
    this.outline = null;
    if (this.result) this.setResult(null);
    this.onChange();
    this.draw();
  }

  // ---- loose shapes ---------------------------------------------------------------------------------------------

  /** Lay a shape on the picture that can be moved, turned and scaled: {mask, width, height, x, y, scale, angle, …}. */
  setShape(shape) {
    this.placeShape();
    this.compare(false);
    this.shape = { x: this.width / 2, y: this.height / 2, scale: 1, angle: 0, ...shape };
    this.shape.sheet = coloured(shape.mask, shape.width, shape.height);
    if (this.result) this.setResult(null);
    this.onShape(this.shape);
    this.onChange();
    this.draw();
  }

  changeShape(values) {
    if (!this.shape) return;
    Object.assign(this.shape, values);
    this.shape.x = clamp(this.shape.x, 0, this.width);
    this.shape.y = clamp(this.shape.y, 0, this.height);
    this.shape.scale = clamp(this.shape.scale, 0.1, 6);
    this.onShape(this.shape);
    this.draw();
  }

  dropShape() {
    if (!this.shape) return;
    this.shape = null;
    this.onShape(null);
    this.onChange();
    this.draw();
  }

  /** Put the loose shape into the mask; a pixel is set if enough of it is covered, so that thin lines stay whole. */
  placeShape() {
    const { shape } = this;
    if (!shape) return;
    const cos = Math.cos(shape.angle), sin = Math.sin(shape.angle);
    const reachX = (Math.abs(cos) * shape.width + Math.abs(sin) * shape.height) * shape.scale / 2 + 1;
    const reachY = (Math.abs(sin) * shape.width + Math.abs(cos) * shape.height) * shape.scale / 2 + 1;
    const left = clamp(Math.floor(shape.x - reachX), 0, this.width), right = clamp(Math.ceil(shape.x + reachX), 0, this.width);
    const top = clamp(Math.floor(shape.y - reachY), 0, this.height), bottom = clamp(Math.ceil(shape.y + reachY), 0, this.height);
    const fine = shape.scale < 0.8 ? 6 : 4;
    const needed = Math.ceil(fine * fine * 0.38);
    this.begin();
    for (let y = top; y < bottom; y++) {
      for (let x = left; x < right; x++) {
        let covered = 0;
        for (let sub = 0; sub < fine * fine; sub++) {
          const dx = x + ((sub % fine) + 0.5) / fine - shape.x, dy = y + (Math.floor(sub / fine) + 0.5) / fine - shape.y;
          const u = Math.floor((cos * dx + sin * dy) / shape.scale + shape.width / 2);
          const v = Math.floor((-sin * dx + cos * dy) / shape.scale + shape.height / 2);
          if (u >= 0 && v >= 0 && u < shape.width && v < shape.height && shape.mask[v * shape.width + u]) covered++;
        }
        if (covered >= needed) this.mask[y * this.width + x] = 1;
      }
    }
    this.shape = null;
    this.touch(left, top, right, bottom);
    this.finish();
    this.onShape(null);
  }

  /** Where the handles of the shape are, in the picture's pixels. */
  handles() {
    const { shape } = this;
    const cos = Math.cos(shape.angle), sin = Math.sin(shape.angle);
    const place = (u, v) => ({ x: shape.x + cos * u - sin * v, y: shape.y + sin * u + cos * v });
    const half = { u: Math.max(shape.width * shape.scale / 2, 8 / this.view.scale), v: Math.max(shape.height * shape.scale / 2, 8 / this.view.scale) };
    return {
      corners: [place(-half.u, -half.v), place(half.u, -half.v), place(half.u, half.v), place(-half.u, half.v)],
      turn: place(0, -half.v - 26 / this.view.scale),
      top: place(0, -half.v),
    };
  }

  drawShape() {
    const { context, shape } = this;
    if (!shape) return;
    context.save();
    context.translate(shape.x, shape.y);
    context.rotate(shape.angle);
    context.scale(shape.scale, shape.scale);
    context.imageSmoothingEnabled = true;
    context.drawImage(shape.sheet, -shape.width / 2, -shape.height / 2);
    context.restore();
    const { corners, turn, top } = this.handles();
    context.lineWidth = 1.4 / this.view.scale;
    context.setLineDash([5 / this.view.scale, 4 / this.view.scale]);
    for (const [colour, offset] of [["#fff", 0], ["#0a58b8", 4.5 / this.view.scale]]) {
      context.strokeStyle = colour;
      context.lineDashOffset = offset;
      context.beginPath();
      corners.forEach(({ x, y }, index) => (index ? context.lineTo(x, y) : context.moveTo(x, y)));
      context.closePath();
      context.moveTo(top.x, top.y);
      context.lineTo(turn.x, turn.y);
      context.stroke();
    }
    context.setLineDash([]);
    for (const { x, y } of [...corners, turn]) {
      context.beginPath();
      context.arc(x, y, 6 / this.view.scale, 0, 2 * Math.PI);
      context.fillStyle = "#fff";
      context.fill();
      context.strokeStyle = "#0a58b8";
      context.lineWidth = 2 / this.view.scale;
      context.stroke();
    }
  }

  /** What a point of the picture touches of the shape: "turn", "scale", "move" or nothing. */
  touchedPart(point) {
    const near = (other) => Math.hypot(other.x - point.x, other.y - point.y) * this.view.scale < 16;
    const { corners, turn } = this.handles();
    if (near(turn)) return "turn";
    if (corners.some(near)) return "scale";
    const { shape } = this;
    const dx = point.x - shape.x, dy = point.y - shape.y;
    const cos = Math.cos(shape.angle), sin = Math.sin(shape.angle);
    const inside = Math.abs(cos * dx + sin * dy) <= Math.max(shape.width * shape.scale / 2, 12 / this.view.scale)
      && Math.abs(-sin * dx + cos * dy) <= Math.max(shape.height * shape.scale / 2, 12 / this.view.scale);
    return inside ? "move" : null;
  }

  // ---- pointer, wheel and keys ----------------------------------------------------------------------------------

  listen() {
    const { canvas } = this;
    canvas.style.touchAction = "none";
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (event) => this.up(event));
    canvas.addEventListener("pointerleave", () => { this.over = false; this.draw(); });
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      const { x, y } = this.place(event);
      this.zoom(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.0016)), x, y);
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => this.key(event));
    for (const name of ["focus", "blur"]) canvas.addEventListener(name, () => this.draw());
    this.setTool("brush");
  }

  place(event) {
    const box = this.canvas.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  }

  down(event) {
    if (!this.picture) return;
    this.canvas.setPointerCapture(event.pointerId);
    const at = this.place(event);
    this.pointers.set(event.pointerId, at);
    if (this.pointers.size === 2) { // two fingers move and zoom the view
      if (this.pen?.kind === "paint") { this.finish(); this.undo(); this.undone.pop(); }
      this.pen = { kind: "pinch" };
      return;
    }
    const point = this.toPicture(at.x, at.y);
    if (event.button === 1 || event.button === 2 || this.tool === "move" && !this.shape) {
      this.pen = { kind: "pan", at };
    } else if (this.comparing) {
      this.pen = { kind: "split" };
      this.splitAt(point);
    } else if (this.shape) {
      const part = this.touchedPart(point);
      if (part) this.pen = { kind: part, point, shape: { ...this.shape } };
      else this.pen = { kind: "pan", at };
    } else {
      this.cursor = point;
      this.pen = { kind: "paint", value: this.tool === "eraser" ? 0 : 1 };
      this.begin();
      this.stroke(point, point, this.pen.value);
    }
  }

  move(event) {
    if (!this.picture) return;
    this.over = event.pointerType !== "touch";
    const held = this.pointers.has(event.pointerId);
    const steps = held && event.getCoalescedEvents ? event.getCoalescedEvents() : [event];
    for (const step of steps.length ? steps : [event]) this.step(step, held);
    this.draw();
  }

  step(event, held) {
    const at = this.place(event);
    const point = this.toPicture(at.x, at.y);
    const before = this.pointers.get(event.pointerId);
    if (held && this.pen?.kind === "pinch") this.pinch(event.pointerId, at);
    if (held) this.pointers.set(event.pointerId, at);
    if (!held || !this.pen) { this.cursor = point; return; }
    const { pen } = this;
    if (pen.kind === "paint") {
      this.stroke(this.cursor, point, pen.value);
      this.cursor = point;
    } else if (pen.kind === "pan") this.pan(at.x - before.x, at.y - before.y);
    else if (pen.kind === "split") this.splitAt(point);
    else if (pen.kind === "move") this.changeShape({ x: pen.shape.x + point.x - pen.point.x, y: pen.shape.y + point.y - pen.point.y });
    else if (pen.kind === "turn") this.changeShape({ angle: Math.atan2(point.y - this.shape.y, point.x - this.shape.x) + Math.PI / 2 });
    else if (pen.kind === "scale") {
      const far = (one) => Math.hypot(one.x - pen.shape.x, one.y - pen.shape.y);
      this.changeShape({ scale: pen.shape.scale * far(point) / Math.max(far(pen.point), 1) });
    }
  }

  pinch(moved, at) {
    const other = [...this.pointers].find(([id]) => id !== moved)?.[1];
    const before = this.pointers.get(moved);
    if (!other || !before) return;
    const factor = Math.hypot(at.x - other.x, at.y - other.y) / Math.max(1, Math.hypot(before.x - other.x, before.y - other.y));
    this.zoom(factor, (at.x + other.x) / 2, (at.y + other.y) / 2);
    this.pan((at.x - before.x) / 2, (at.y - before.y) / 2);
  }

  up(event) {
    this.pointers.delete(event.pointerId);
    if (this.pen?.kind === "paint") this.finish();
    if (!this.pointers.size || this.pen?.kind !== "pinch") this.pen = null;
  }

  splitAt(point) {
    this.split = clamp(point.x / this.width, 0, 1);
    this.onSplit?.(this.split);
    this.draw();
  }

  key(event) {
    if (!this.picture || event.ctrlKey || event.metaKey || event.altKey) return;
    const step = event.shiftKey ? 10 : 2;
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    const arrow = moves[event.key];
    let used = true;
    if (this.shape && arrow) this.changeShape({ x: this.shape.x + arrow[0], y: this.shape.y + arrow[1] });
    else if (this.shape && event.key === "[") this.changeShape({ angle: this.shape.angle - Math.PI / 36 });
    else if (this.shape && event.key === "]") this.changeShape({ angle: this.shape.angle + Math.PI / 36 });
    else if (this.shape && event.key === "-") this.changeShape({ scale: this.shape.scale / 1.1 });
    else if (this.shape && (event.key === "+" || event.key === "=")) this.changeShape({ scale: this.shape.scale * 1.1 });
    else if (this.shape && event.key === "Enter") this.placeShape();
    else if (this.shape && event.key === "Escape") this.dropShape();
    else if (arrow && this.tool === "move") this.pan(-arrow[0] * 8, -arrow[1] * 8);
    else if (arrow && !this.comparing) this.keyMove(arrow);
    else if (event.key === " " && !this.comparing && !this.shape && this.tool !== "move") this.keyDab();
    else if (event.key === "+" || event.key === "=") this.zoom(1.25);
    else if (event.key === "-") this.zoom(0.8);
    else if (event.key === "0") this.fit();
    else used = false;
    if (used) event.preventDefault();
  }

  keyMove([dx, dy]) {
    const from = this.cursor;
    this.cursor = { x: clamp(from.x + dx, 0, this.width), y: clamp(from.y + dy, 0, this.height) };
    if (this.keyPen) {
      this.begin();
      this.stroke(from, this.cursor, this.tool === "eraser" ? 0 : 1);
      this.finish();
    }
    this.draw();
  }

  /** The space key puts the brush down, and lifts it again. */
  keyDab() {
    this.keyPen = !this.keyPen;
    if (!this.keyPen) return;
    this.begin();
    this.stroke(this.cursor, this.cursor, this.tool === "eraser" ? 0 : 1);
    this.finish();
  }
}

/** A mask from a picture of it: white is defect. */
export function maskOf(image) {
  const made = sheet(image.width, image.height);
  const context = made.getContext("2d");
  context.drawImage(image, 0, 0);
  const { data } = context.getImageData(0, 0, image.width, image.height);
  const mask = new Uint8Array(image.width * image.height);
  for (let index = 0; index < mask.length; index++) mask[index] = data[index * 4] > 127 ? 1 : 0;
  return mask;
}
