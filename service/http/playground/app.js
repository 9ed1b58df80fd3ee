// The state of the page, and what its buttons do.

import { Service } from "./api.js";
import { decodeMask, drawOverlay } from "./overlay.js";
import { kendallTau, moves, ndcg } from "./ranking.js";
import { snippet } from "./snippets.js";
import { count, documentLine, element, percent, resultItem, runHead, scoreText, size, stageBar } from "./view.js";

const SAMPLE_QUERY = "bank loan interest";
const TTL_SECONDS = 3600;
const PREFIX = `playground-${crypto.getRandomValues(new Uint32Array(3)).join("-")}`;

const $ = (id) => document.getElementById(id);
const service = new Service(askForKey);

const state = {
  limits: {},
  documents: [], // {id, name, bytes, pageCount, pages, sha256}
  runs: [], // one, or two of a comparison
  judged: new Map(), // by question: {marks: keys of relevant pages, run}
  number: 0, // of the next document
  question: 0, // of the last request, so that a late answer to an older one is dropped
  viewed: null, // {run, place} of the large view
};
const images = new Map(); // object URLs by page and width

// Documents

$("choose").onclick = () => $("files").click();
$("files").onchange = async () => {
  await addFiles([...$("files").files]);
  $("files").value = "";
};
$("sample").onclick = takeSample;
$("clear").onclick = () => {
  state.documents.splice(0).forEach(({ id }) => service.forget(id));
  documentsChanged();
  $("choose").focus();
};

let dragged = 0; // elements that a dragged file is over
addEventListener("dragenter", () => $("drop").classList.toggle("over", (dragged += 1) > 0));
addEventListener("dragleave", () => $("drop").classList.toggle("over", (dragged -= 1) > 0));
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", async (event) => {
  event.preventDefault();
  dragged = 0;
  $("drop").classList.remove("over");
  await addFiles([...event.dataTransfer.files]);
});
addEventListener("pagehide", () => state.documents.forEach(({ id }) => service.forget(id)));
addEventListener("pageshow", (event) => event.persisted && location.reload());

async function takeSample() {
  try {
    if ($("query").value === "") $("query").value = SAMPLE_QUERY;
    return await addFiles([await service.sample()]);
  } catch (error) {
    $("document-error").textContent = error.message;
    return false;
  }
}

/** Whether all files were taken. */
async function addFiles(files) {
  const errors = [];
  for (const file of files) {
    const fault = faultOf(file);
    if (fault) {
      errors.push(`${file.name}: ${fault}`);
      continue;
    }
    $("status").textContent = `Uploading ${file.name} …`;
    const id = `${PREFIX}-${(state.number += 1)}`;
    try {
      const stored = await service.register(id, file, TTL_SECONDS);
      state.documents.push({ id, name: file.name, bytes: file.size, pageCount: stored.page_count, pages: stored.pages, sha256: stored.sha256 });
    } catch (error) {
      errors.push(`${file.name}: ${withId(error)}`);
    }
  }
  documentsChanged();
  $("document-error").textContent = errors.join("\n");
  $("status").textContent = errors.length === files.length ? "" : `${count(pagesInAll(), "page")} ready to be ranked.`;
  return errors.length === 0;
}

function faultOf(file) {
  const most = Math.min(state.limits.max_file_bytes ?? Infinity, state.limits.max_body_bytes ?? Infinity);
  if (file.size > most) return `it has ${size(file.size)} and the limit is ${size(most)}. Split it.`;
  if (file.size === 0) return "it is empty.";
  return null;
}

const pagesInAll = () => state.documents.reduce((sum, { pageCount }) => sum + pageCount, 0);

function documentsChanged() {
  $("documents").replaceChildren(
    ...state.documents.map((entry) =>
      documentLine(entry, () => {
        service.forget(entry.id);
        state.documents.splice(state.documents.indexOf(entry), 1);
        documentsChanged();
        $("choose").focus();
      }),
    ),
  );
  $("clear").hidden = state.documents.length < 2;
  state.question += 1;
  state.runs = [];
  for (const url of images.values()) url.then(URL.revokeObjectURL, () => {});
  images.clear();
  $("status").textContent = "";
  showRuns();
}

// Ranking

for (const side of ["a", "b"]) $(`keep-${side}`).oninput = showRatios;
$("compare").onchange = showRatios;
$("question").onsubmit = (event) => {
  event.preventDefault();
  rank();
};

function showRatios() {
  for (const side of ["a", "b"]) $(`keep-${side}-text`).textContent = percent(Number($(`keep-${side}`).value));
  document.body.classList.toggle("compared", $("compare").checked);
}

function faultOfQuestion(query) {
  const { max_pages: most = Infinity, max_query_characters: longest = Infinity } = state.limits;
  if (state.documents.length === 0) return "Add a document first, or take the sample.";
  if (query.trim() === "") return "Write a question first.";
  if (query.length > longest) return `The question has ${count(query.length, "character")} and the limit is ${longest}. Shorten it.`;
  if (pagesInAll() > most) return `The documents have ${count(pagesInAll(), "page")} and the limit is ${most}. Remove one.`;
  return "";
}

async function rank() {
  const query = $("query").value;
  const fault = faultOfQuestion(query);
  $("query-error").textContent = fault;
  if (fault) return;
  const question = (state.question += 1);
  const sides = $("compare").checked ? ["a", "b"] : ["a"];
  $("status").textContent = `Ranking ${count(pagesInAll(), "page")} …`;
  $("rank").setAttribute("aria-busy", "true");
  try {
    const runs = [];
    for (const side of sides) {
      // One after the other, so that neither waits for the other.
      const answer = await ask(query, Number($(`keep-${side}`).value), sides.length > 1 ? side.toUpperCase() : "");
      if (question !== state.question) return;
      runs.push(answer);
    }
    runs.forEach((run) => addMoves(run, run === runs[0] ? givenOrder() : runs[0].order, run === runs[0] ? "the given order" : "A"));
    state.runs = runs;
    remember(query, runs[0]);
    $("status").textContent = `${count(runs[0].pages.length, "page")} ranked. The best is ${runs[0].pages[0].label}.`;
    showRuns();
    const title = $("results-title");
    if (title.getBoundingClientRect().top > innerHeight * 0.6) title.scrollIntoView();
  } catch (error) {
    if (question !== state.question) return;
    $("status").textContent = "";
    $("query-error").textContent = withId(error);
  } finally {
    $("rank").removeAttribute("aria-busy");
  }
}

async function ask(query, keepRatio, name) {
  const documents = state.documents;
  const answer = await service.rerank({
    query,
    documents: documents.map(({ id }) => ({ id })),
    ziprerank: { keep_ratio: keepRatio, results: "pages", include_timings: true, include_kept_tokens: true },
  });
  const pages = answer.results.map((result) => {
    const { id, name: file, sha256 } = documents[result.index];
    const number = result.page ?? 1;
    const label = result.page === null ? file : `${file}, page ${number}`;
    return { key: `${id}#${number}`, id, file, sha256, number, label, score: result.relevance_score, kept: result.kept_tokens };
  });
  const { timings_ms: timings, visual_tokens: tokens, cache } = answer.ziprerank;
  const { windows, score: scoreKind } = answer.meta;
  return { name, query, keepRatio, pages, order: pages.map(({ key }) => key), timings, tokens, cache, windows, scoreKind, id: answer.id };
}

const givenOrder = () => state.documents.flatMap(({ id, pageCount }) => Array.from({ length: pageCount }, (_, page) => `${id}#${page + 1}`));

function addMoves(run, before, from) {
  const byKey = moves(before, run.order);
  run.from = from;
  run.pages.forEach((page) => (page.move = byKey.get(page.key) ?? 0));
}

function showRuns() {
  const { runs } = state;
  $("runs").replaceChildren(...runs.map(runColumn));
  $("runs").classList.toggle("two", runs.length > 1);
  for (const id of ["judge", "code", "overlay-choice"]) $(id).hidden = runs.length === 0;
  $("agreement").hidden = runs.length < 2;
  if (runs.length > 1) {
    const tau = kendallTau(runs[0].order, runs[1].order);
    const ratio = runs[1].timings.total / runs[0].timings.total;
    const moved = runs[1].pages.filter(({ move }) => move !== 0).length;
    $("agreement").textContent = `A and B agree with Kendall's tau ${tau === null ? "–" : tau.toFixed(2)}; ${count(moved, "page")} moved. B took ${ratio.toFixed(2)} times as long as A.`;
  }
  showMarks();
  showSnippet();
}

function runColumn(run) {
  const marks = marksOf(run.query);
  const items = run.pages.map((page, place) =>
    resultItem(page, {
      place: place + 1,
      from: run.from,
      isMarked: marks.has(page.key),
      load: () => imageUrl(page, 320),
      onOpen: () => open(run, place),
      onMark: (isMarked) => mark(run.query, page.key, isMarked),
    }),
  );
  const list = element("ol", { className: "pages", "aria-label": run.name ? `Ranked pages of ${run.name}` : "Ranked pages" }, ...items);
  list.addEventListener("keydown", moveFocus);
  return element("div", { className: "run" }, runHead(run, () => copy(run.id, "The request id is copied.")), stageBar(run), list);
}

function moveFocus(event) {
  const step = { ArrowRight: 1, ArrowDown: 1, j: 1, ArrowLeft: -1, ArrowUp: -1, k: -1 }[event.key];
  if (!step || !event.target.classList.contains("page")) return;
  const buttons = [...event.currentTarget.querySelectorAll("button.page")];
  buttons[buttons.indexOf(event.target) + step]?.focus();
  event.preventDefault();
}

function imageUrl(page, width) {
  const name = `${page.key} ${width}`;
  if (!images.has(name)) {
    const url = service.pageImage(page.id, page.number, width).then((blob) => URL.createObjectURL(blob));
    images.set(name, url);
    url.catch(() => images.delete(name)); // the next look asks again
  }
  return images.get(name);
}

// The large view

$("view-close").onclick = () => $("view").close();
$("view-previous").onclick = () => step(-1);
$("view-next").onclick = () => step(1);
$("view").addEventListener("close", () => {
  const { run, place } = state.viewed;
  $("runs").children[state.runs.indexOf(run)]?.querySelectorAll("button.page")[place]?.focus();
});
$("view").addEventListener("keydown", (event) => {
  const way = { ArrowRight: 1, j: 1, ArrowLeft: -1, k: -1 }[event.key];
  if (way) step(way);
});
addEventListener("keydown", (event) => {
  const isTyped = event.target.matches?.("input:not([type=checkbox], [type=radio], [type=range]), textarea");
  if (event.key !== "h" || isTyped || event.ctrlKey || event.metaKey || event.altKey || state.runs.length === 0) return;
  showOverlays(!$("overlay").checked);
});
for (const id of ["overlay", "view-overlay"]) $(id).onchange = (event) => showOverlays(event.target.checked);

function showOverlays(areShown) {
  $("overlay").checked = $("view-overlay").checked = areShown;
  document.body.classList.toggle("overlays", areShown);
}

function open(run, place) {
  showPage(run, place);
  $("view").showModal();
}

function step(way) {
  const { run, place } = state.viewed;
  if (run.pages[place + way]) showPage(run, place + way);
}

function showPage(run, place) {
  const page = run.pages[place];
  state.viewed = { run, place };
  $("view-title").textContent = page.label;
  $("view-error").textContent = "";
  const facts = [`Place ${place + 1} of ${run.pages.length}`, `score ${scoreText(page.score)}`];
  const image = element("img", { alt: page.label });
  $("view-sheet").replaceChildren(image);
  if (page.kept) {
    const mask = decodeMask(page.kept);
    $("view-sheet").append(drawOverlay(mask));
    facts.push(`${mask.count} of ${mask.cells.length} visual tokens kept; the others are dimmed`);
  }
  $("view-facts").textContent = facts.join(" · ");
  $("view-previous").disabled = place === 0;
  $("view-next").disabled = place === run.pages.length - 1;
  imageUrl(page, devicePixelRatio * innerWidth > 1000 ? 1600 : 800)
    .then((url) => (image.src = url))
    .catch((error) => ($("view-error").textContent = withId(error)));
}

// Evaluation

$("cutoff").oninput = showMarks;
$("export").onclick = saveMarks;

function remember(query, run) {
  const entry = state.judged.get(query) ?? { marks: new Set() };
  entry.run = run;
  state.judged.set(query, entry);
}

const marksOf = (query) => state.judged.get(query)?.marks ?? new Set();

function mark(query, key, isMarked) {
  const marks = marksOf(query);
  if (isMarked) marks.add(key);
  else marks.delete(key);
  for (const box of document.querySelectorAll("#runs input[type=checkbox]")) box.checked = marks.has(box.dataset.key);
  showMarks();
}

function showMarks() {
  const cutoff = Math.max(1, Math.floor(Number($("cutoff").value)) || 1);
  const figures = state.runs.map((run) => {
    const value = ndcg(run.order, marksOf(run.query), cutoff);
    return (run.name ? `${run.name} ` : "") + (value === null ? "–" : value.toFixed(3));
  });
  $("ndcg").textContent = figures.join(", ") || "–";
  $("export").disabled = judgedQuestions().length === 0;
}

const judgedQuestions = () => [...state.judged].filter(([, { marks }]) => marks.size > 0);

function saveMarks() {
  const lines = judgedQuestions().map(([query, { marks, run }]) =>
    JSON.stringify({
      query,
      pages: run.pages.map(({ key, file, sha256, number, score }) => ({ file, sha256, page: number, score, relevant: marks.has(key) })),
      keep_ratio: run.keepRatio,
      score: run.scoreKind,
      request_id: run.id,
    }),
  );
  const url = URL.createObjectURL(new Blob([`${lines.join("\n")}\n`], { type: "application/jsonl" }));
  element("a", { href: url, download: "judged-pages.jsonl" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
  $("status").textContent = `${count(lines.length, "question")} saved as judged-pages.jsonl.`;
}

// Code

for (const choice of document.querySelectorAll("input[name=client]")) choice.onchange = showSnippet;
$("copy").onclick = () => copy($("snippet").textContent, "The code is copied.");

function showSnippet() {
  const [run] = state.runs;
  if (!run) return;
  const client = document.querySelector("input[name=client]:checked").value;
  const names = state.documents.map(({ name }) => name);
  $("snippet").textContent = snippet(client, { url: service.url, query: run.query, keepRatio: run.keepRatio, names, hasKey: service.hasKey });
}

async function copy(text, done) {
  try {
    await navigator.clipboard.writeText(text);
    $("status").textContent = done;
  } catch {
    $("status").textContent = "The browser does not let this page copy. Select the text, and copy it by hand.";
  }
}

// Errors and the key

function withId(error) {
  return error.requestId ? `${error.message} (request ${error.requestId})` : error.message;
}

function askForKey(wasRefused) {
  $("key-error").textContent = wasRefused ? "The service does not know this key." : "";
  $("key-text").value = "";
  $("key").showModal();
  return new Promise((resolve) => {
    $("key-form").onsubmit = (event) => {
      event.preventDefault();
      const key = $("key-text").value.trim();
      $("key-text").value = "";
      $("key").close();
      resolve(key);
    };
    $("key-cancel").onclick = () => $("key").close();
    $("key").onclose = () => resolve(null);
  });
}

// Start: at the end, because it waits for the service

try {
  const info = await service.info();
  state.limits = info.limits;
  const device = info.gpu && info.gpu !== "cpu" ? info.gpu : "the CPU";
  $("service").textContent = `Ranks the pages of documents by a question. Model ${info.model} on ${device}, version ${info.version}.`;
  const { max_file_bytes: file, max_body_bytes: body, max_document_pages: pages, max_pages: ranked } = info.limits;
  $("limits").textContent = `Up to ${size(Math.min(file, body))} and ${count(pages, "page")} a file, ${count(ranked, "page")} in all.`;
  $("keep-a").value = info.window.keep_ratio;
} catch (error) {
  $("document-error").textContent = error.message;
}
showRatios();
if (location.hash === "#sample") {
  $("query").value = SAMPLE_QUERY;
  if (await takeSample()) await rank();
}
