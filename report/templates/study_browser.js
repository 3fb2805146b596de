"use strict";
// The study browser. Reads the JSON in #browser-data (report/study_browser.py); a slice is a grey PNG (report/hu_png.py).
(() => {
  const data = JSON.parse(document.getElementById("browser-data").textContent);
  if (!data.studies.length) return;
  const byId = (id) => document.getElementById("b-" + id);
  const make = (tag, values, ...children) => {
    const node = Object.assign(document.createElement(tag), values);
    node.append(...children);
    return node;
  };
  const draw = (tag, values) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(values)) node.setAttribute(name, value);
    return node;
  };
  const LANE = 44, LISTED = 60, WORDS = { miss: "missed", alarm: "false alarm" };
  const bounds = Object.fromEntries(data.windows.map(([name, ...range]) => [name, range])), windows = Object.keys(bounds);
  const shown = data.kinds.length - 1; // index of the final prediction, the last kind
  const state = { study: null, slice: 0, window: windows[0], pictures: [], cursors: [] };

  const swatch = (label) => make("span", { className: "swatch c-" + label, ariaHidden: "true" });
  const percent = (p) => (p === null ? "–" : (100 * p).toFixed(p < 0.0995 ? 1 : 0) + " %");

  // -- one slice: bytes, window, Grad-CAM map --

  function bytesOf(index) {
    const study = state.study, picture = study.pictures && study.pictures[index];
    if (!picture) return Promise.resolve(null);
    state.pictures[index] ??= new Promise((resolve, reject) => {
      const image = new Image();
      image.onload = () => {
        const canvas = make("canvas", { width: image.width, height: image.height });
        const context = canvas.getContext("2d", { willReadFrequently: true });
        context.drawImage(image, 0, 0);
        const pixels = context.getImageData(0, 0, image.width, image.height);
        resolve({ size: image.width, bytes: pixels.data.filter((_, place) => place % 4 === 0) });
      };
      image.onerror = () => reject(new Error("slice " + study.slices[index] + " is no picture"));
      image.src = "data:image/png;base64," + picture;
    });
    return state.pictures[index];
  }

  async function paint() {
    const { study, slice } = state;
    if (!study.pictures) return;
    const picture = await bytesOf(slice);
    if (study !== state.study || slice !== state.slice) return; // another slice is shown by now
    const canvas = byId("canvas"), [low, high] = bounds[state.window];
    byId("blank").hidden = picture !== null;
    byId("corner").textContent = `${state.window}  ${slice + 1}/${study.slices.length}`;
    if (!picture) {
      canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
    } else {
      canvas.width = canvas.height = picture.size;
      const grey = data.hu.map((hu) => Math.round(255 * Math.min(1, Math.max(0, (hu - low) / (high - low)))));
      const image = new ImageData(picture.size, picture.size);
      picture.bytes.forEach((byte, place) => image.data.set([grey[byte], grey[byte], grey[byte], 255], 4 * place));
      canvas.getContext("2d").putImageData(image, 0, 0);
    }
    paintMap(picture !== null);
    for (const next of [slice + 1, slice - 1]) if (study.slices[next]) bytesOf(next);
  }

  function paintMap(readable) {
    const canvas = byId("heat"), context = canvas.getContext("2d"), map = state.study.maps[byId("map").value];
    context.clearRect(0, 0, canvas.width, canvas.height);
    if (!map || !readable) return;
    map.bytes ??= Uint8Array.from(atob(map.data), (letter) => letter.charCodeAt(0));
    const [high, wide] = map.shape, size = high * wide;
    const start = (state.slice * data.labels.length + byId("maplabel").selectedIndex) * size;
    const image = new ImageData(wide, high);
    for (let place = 0; place < size; place++) {
      const value = map.bytes[start + place] / 255; // vermilion to yellow, strong values opaque
      image.data.set([213 + 27 * value, 94 + 134 * value, 66 * value, 255 * value], 4 * place);
    }
    const small = make("canvas", { width: wide, height: high });
    small.getContext("2d").putImageData(image, 0, 0);
    context.imageSmoothingQuality = "high";
    context.drawImage(small, 0, 0, canvas.width, canvas.height);
    canvas.style.opacity = byId("opacity").value / 100;
  }

  // -- the curves --

  function path(study, values) {
    let line = "", before = null;
    values.forEach((p, index) => {
      if (p !== null) {
        const y = (LANE - 2 - p * (LANE - 4)).toFixed(1);
        line += before === study.series[index] ? `L${index + 0.5} ${y}` : `M${index + 0.5} ${y}h0`;
      }
      before = p === null ? null : study.series[index];
    });
    return line;
  }

  function lane(label, number) {
    const study = state.study, n = study.slices.length;
    const svg = draw("svg", { class: "lane c-" + label, viewBox: `0 0 ${n} ${LANE}`, preserveAspectRatio: "none", "aria-hidden": "true" });
    const bars = draw("g", { class: "bars" });
    study.truth.forEach((truth, index) => {
      if (truth[number] === 1) bars.append(draw("rect", { x: index, y: 0, width: 1, height: LANE }));
    });
    const half = LANE - 2 - data.threshold * (LANE - 4);
    svg.append(bars, draw("path", { class: "base", d: `M0 ${LANE}H${n}` }), draw("path", { class: "half", d: `M0 ${half}H${n}` }));
    data.kinds.forEach(([kind], which) => {
      svg.append(draw("path", { class: kind, d: path(study, study.p[which].map((p) => p[number])) }));
    });
    const cursor = draw("path", { class: "cursor" });
    svg.append(cursor);
    svg.addEventListener("click", (event) => {
      const box = svg.getBoundingClientRect();
      showSlice(Math.floor(((event.clientX - box.left) / box.width) * n));
    });
    const numbers = make("span", { className: "numbers" });
    state.cursors.push({ cursor, numbers, number });
    return make("div", { className: "strip" }, make("span", { className: "tag" }, swatch(label), label), numbers, svg);
  }

  // -- open a study, show a slice --

  function open(id, slice) {
    const study = data.studies.find((each) => each.id === id);
    if (!study) return false;
    Object.assign(state, { study, pictures: [], cursors: [] });
    byId("study").value = id;
    byId("about").textContent = [study.about, `${study.slices.length} slices`].filter(Boolean).join(" · ");
    byId("figure").hidden = !study.pictures;
    byId("slice").max = study.slices.length - 1;
    byId("lanes").replaceChildren(...data.labels.map(lane));
    const before = byId("map").selectedOptions[0]?.textContent;
    byId("map").replaceChildren(make("option", { value: "", textContent: "off" }),
      ...study.maps.map((map, value) => make("option", { value, textContent: map.model, selected: map.model === before })));
    byId("overlay").classList.toggle("none", !study.maps.length);
    for (const control of byId("overlay").querySelectorAll("select, input")) control.disabled = !study.maps.length;
    showMapNote();
    showSlice(slice ?? firstSlice(study));
    return true;
  }

  function firstSlice(study) { // of the largest error; without labels of the highest `any`; else the middle
    const largest = errors.find((error) => error.study === study);
    if (largest) return largest.index;
    const any = data.labelled ? [] : study.p[shown].map((p) => p[0]);
    return any.length ? any.indexOf(Math.max(...any)) : Math.floor(study.slices.length / 2);
  }

  function showMapNote() {
    const map = state.study.maps[byId("map").value];
    byId("mapnote").textContent = !state.study.maps.length ? "No Grad-CAM maps of this study; the command explain makes them."
      : map ? `From ${map.from}, layer ${map.layer}; full colour is the maximum of the study.` : "";
  }

  function showSlice(slice, quietly) {
    const study = state.study, n = study.slices.length;
    state.slice = Math.min(n - 1, Math.max(0, slice));
    const truth = study.truth[state.slice], mm = study.mm[state.slice];
    const place = `${state.slice + 1} of ${n}` + (mm === null ? "" : `, ${mm} mm`);
    byId("slice").value = state.slice;
    byId("slice").setAttribute("aria-valuetext", place);
    byId("number").textContent = place;
    byId("name").textContent = study.slices[state.slice];
    byId("link").href = `#study=${study.id}&slice=${study.slices[state.slice]}`;
    const notable = [];
    for (const { cursor, numbers, number } of state.cursors) {
      cursor.setAttribute("d", `M${state.slice + 0.5} 0V${LANE}`);
      const known = !data.labelled ? "" : truth[number] === null ? "no label" : truth[number] ? "labelled" : "not labelled";
      const all = data.kinds.map((_, which) => percent(study.p[which][state.slice][number]));
      numbers.replaceChildren(make("span", { className: truth[number] ? "yes" : "no", textContent: known }), ` ${all.join(" → ")}`);
      if (truth[number] || study.p[shown]?.[state.slice][number] >= data.threshold) notable.push([data.labels[number], known, all.at(-1) ?? "–"].filter(Boolean).join(", "));
    }
    const text = `Slice ${place}, ${state.window} window: ${notable.join("; ") || (data.labelled ? "no label, no prediction of 50 % or more" : "no prediction of 50 % or more")}`;
    byId("canvas").setAttribute("aria-label", text);
    if (!quietly) byId("live").textContent = text;
    paint();
  }

  function chooseWindow(name) {
    state.window = name;
    for (const button of byId("windows").children) button.setAttribute("aria-pressed", button.dataset.name === name);
    showSlice(state.slice);
  }

  function openFromAddress() {
    const address = new URLSearchParams(location.hash.slice(1));
    const study = data.studies.find((each) => each.id === address.get("study"));
    if (!study) return;
    const slice = study.slices.indexOf(address.get("slice"));
    open(study.id, slice < 0 ? undefined : slice);
    (document.getElementById("study-browser") ?? document.body).scrollIntoView();
    (study.pictures ? byId("screen") : byId("slice")).focus({ preventScroll: true });
  }

  // -- errors --

  const errors = data.studies.flatMap((study) => study.slices.flatMap((id, index) => data.labels.flatMap((label, number) => {
    const truth = study.truth[index][number], p = study.p[shown]?.[index][number] ?? null;
    if (truth === null || p === null || (p >= data.threshold) === (truth === 1)) return [];
    return [{ study, id, index, label, p, kind: truth === 1 ? "miss" : "alarm", loss: truth === 1 ? 1 - p : p }];
  }))).sort((a, b) => b.loss - a.loss);

  function listErrors() {
    const [label, kind] = [byId("label").value, byId("kind").value];
    const chosen = errors.filter((error) => (!label || error.label === label) && (!kind || error.kind === kind));
    byId("count").textContent = `${chosen.length} errors` + (chosen.length > LISTED ? `, the ${LISTED} largest are listed` : "");
    byId("list").replaceChildren(...chosen.slice(0, LISTED).map(({ study, id, index, label, kind, p }) => make("li", {},
      make("a", { href: `#study=${study.id}&slice=${id}`, textContent: `${study.id}, slice ${index + 1}` }),
      make("span", {}, swatch(label), `${label}: ${WORDS[kind]} at ${percent(p)}`))));
  }

  // -- controls --

  byId("study").append(...data.studies.map(({ id, reason }) => make("option", { value: id, textContent: [id, reason].filter(Boolean).join(" · ") })));
  byId("study").addEventListener("change", (event) => open(event.target.value));
  byId("windows").append(...windows.map((name, number) => {
    const [low, high] = bounds[name];
    const button = make("button", { type: "button", textContent: name, title: `${low} to ${high} HU, key ${number + 1}` });
    button.dataset.name = name;
    button.addEventListener("click", () => chooseWindow(name));
    return button;
  }));
  byId("maplabel").append(...data.labels.map((label) => make("option", { textContent: label })));
  for (const name of ["map", "maplabel"]) byId(name).addEventListener("change", () => { showMapNote(); paint(); });
  byId("opacity").addEventListener("input", paint);
  byId("slice").addEventListener("input", (event) => showSlice(Number(event.target.value), true)); // screen readers announce a slider themselves
  byId("label").append(make("option", { value: "", textContent: "all" }), ...data.labels.map((label) => make("option", { textContent: label })));
  for (const name of ["label", "kind"]) byId(name).addEventListener("change", listErrors);

  const STEPS = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 5, PageDown: -5, Home: -Infinity, End: Infinity };
  byId("screen").addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key in STEPS) showSlice(state.slice + STEPS[event.key]);
    else if (windows[Number(event.key) - 1]) chooseWindow(windows[Number(event.key) - 1]);
    else return;
    event.preventDefault();
  });
  let turned = 0; // px; a trackpad sends many small steps
  byId("screen").addEventListener("wheel", (event) => {
    const down = event.deltaY > 0, end = down ? 0 : state.study.slices.length - 1;
    if (event.ctrlKey || state.slice === end) return; // past the end the page scrolls on
    event.preventDefault();
    turned += event.deltaY * (event.deltaMode === 1 ? 33 : 1);
    if (Math.abs(turned) < 30) return;
    turned = 0;
    showSlice(state.slice + (down ? -1 : 1));
  }, { passive: false });
  window.addEventListener("hashchange", openFromAddress);

  document.getElementById("browser").hidden = false;
  byId("errors").hidden = !data.labelled;
  byId("overlay").hidden = byId("mapnote").hidden = !data.explained;
  listErrors();
  open(data.studies[0].id);
  chooseWindow(state.window);
  openFromAddress();
})();
