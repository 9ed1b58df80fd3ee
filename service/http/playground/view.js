// Builds the parts of the page from the state. Every text is set as text, never as markup.

import { decodeMask, drawOverlay } from "./overlay.js";
import { stagesOf } from "./ranking.js";

/** An element with properties, attributes (names with a dash, and `role`, `for`) and children. */
export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.includes("-") || key === "role" || key === "for") made.setAttribute(key, value);
    else made[key] = value;
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

const hidden = (text) => element("span", { className: "hidden" }, text);

export function size(bytes) {
  if (bytes < 104858) return `${Math.max(1, Math.round(bytes / 1024))} KB`;
  return `${(bytes / 1048576).toLocaleString("en", { maximumFractionDigits: 1 })} MB`;
}
export const percent = (share) => `${Math.round(share * 100)} %`;
export const count = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
export const milliseconds = (ms) => `${ms >= 100 ? Math.round(ms).toLocaleString("en") : ms.toFixed(1)} ms`;

/** One line of the list of documents. */
export function documentLine(entry, onRemove) {
  const facts = `${count(entry.pageCount, "page")}, ${size(entry.bytes)}`;
  const remove = element("button", { type: "button", className: "quiet", onclick: onRemove }, "Remove", hidden(` ${entry.name}`));
  return element("li", {}, element("span", { className: "name" }, entry.name), element("span", { className: "note" }, facts), remove);
}

/** An arrow with the number of places, and the same in words. */
export function moveMark(places, from) {
  const plural = Math.abs(places) === 1 ? "place" : "places";
  if (!places) return element("span", { className: "move" }, element("span", { "aria-hidden": "true" }, "="), hidden(`same place as in ${from}`));
  const [arrow, way] = places > 0 ? ["▲", "up"] : ["▼", "down"];
  const mark = element("span", { "aria-hidden": "true" }, `${arrow}${Math.abs(places)}`);
  return element("span", { className: `move ${way}` }, mark, hidden(`${way} ${Math.abs(places)} ${plural} from ${from}`));
}

/** A page's image with its overlay, which the style sheet shows or hides. load: gives the image's URL. */
export function sheet(page, load, onError) {
  const image = element("img", { alt: "", decoding: "async" });
  const frame = element("div", { className: "sheet" }, image);
  if (page.kept) frame.append(drawOverlay(decodeMask(page.kept)));
  load().then((url) => (image.src = url)).catch(onError);
  return frame;
}

/** A result: thumbnail, place, score, move and mark. */
export function resultItem(page, { place, from, isMarked, load, onOpen, onMark }) {
  const label = page.label;
  const thumbnail = sheet(page, load, (error) => frameButton.append(element("span", { className: "error" }, error.message)));
  const frameButton = element(
    "button",
    { type: "button", className: "page", onclick: onOpen, "aria-label": `Open ${label}, place ${place}` },
    thumbnail,
  );
  const mark = element("input", { type: "checkbox", checked: isMarked, onchange: (event) => onMark(event.target.checked) });
  mark.dataset.key = page.key;
  return element(
    "li",
    {},
    frameButton,
    element(
      "div",
      { className: "caption" },
      element("p", { className: "line" }, element("span", { className: "place" }, `${place}`), moveMark(page.move, from),
        element("span", { className: "score", title: "score" }, hidden("score "), scoreText(page.score))),
      element("p", { className: "label" }, label),
      element("label", { className: "check" }, mark, "Relevant", hidden(`: ${label}`)),
    ),
  );
}

export function scoreText(score) {
  return score >= 0.001 || score === 0 ? score.toFixed(3) : score.toExponential(1);
}

/** The bar of stages, and the same in numbers. */
export function stageBar(run) {
  const stages = stagesOf(run.timings);
  const bar = element("div", { className: "bar", "aria-hidden": "true" });
  const list = element("dl", { className: "stages" });
  for (const stage of stages) {
    const part = element("span", { className: `part ${stage.id}` });
    part.style.flexGrow = String(stage.ms);
    bar.append(part);
    const detail = stage.id === "vision" ? ` (${run.cache.hits} cached, ${run.cache.misses} computed)` : "";
    list.append(element("div", {}, element("dt", { className: stage.id }, stage.name), element("dd", {}, milliseconds(stage.ms) + detail)));
  }
  return element("div", { className: "timing" }, bar, list);
}

/** The heading of a run: its setting, time, tokens, and the id of its request. */
export function runHead(run, onCopy) {
  const title = run.name ? `${run.name}: ${percent(run.keepRatio)} kept` : `${percent(run.keepRatio)} of the visual tokens kept`;
  const tokens = `${run.tokens.after.toLocaleString("en")} of ${run.tokens.before.toLocaleString("en")} visual tokens read`;
  const facts = [milliseconds(run.timings.total), tokens, ...(run.windows > 1 ? [`${run.windows} windows`] : [])];
  const copy = element("button", { type: "button", className: "quiet", onclick: onCopy }, "Copy", hidden(" the request id"));
  return element(
    "div",
    { className: "run-head" },
    element("h3", {}, title),
    element("p", { className: "note" }, facts.join(" · ")),
    element("p", { className: "note request" }, "Request ", element("code", {}, run.id), " ", copy),
  );
}
