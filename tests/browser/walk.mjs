// Goes through the playground with the keyboard alone, then drops a file. Prints what it saw as JSON.
// Argument, as JSON: url, key ("" for none), scheme, width, packages, sample, dropped, large (paths of files), pictures (folder).

import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { join } from "node:path";

const options = JSON.parse(process.argv[2]);
const require = createRequire(join(options.packages, "package.json"));
const { chromium } = require("playwright-core");
const axe = await readFile(require.resolve("axe-core/axe.min.js"), "utf8");

const PATIENCE = options.patience * 1000;
const HEIGHT = 900;
const seen = { foreign: [], complaints: [], faults: [], puts: 0 };
const name = `${options.scheme}-${options.width}${options.key ? "-key" : ""}`;

const browser = await chromium.launch({
  executablePath: options.chromium,
  args: [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
  ],
});
const context = await browser.newContext({
  colorScheme: options.scheme,
  viewport: { width: options.width, height: HEIGHT },
  reducedMotion: "reduce",
  acceptDownloads: true,
  permissions: ["clipboard-read", "clipboard-write"],
});
const page = await context.newPage();
page.setDefaultTimeout(PATIENCE);
page.on("request", (request) => {
  const url = new URL(request.url());
  if (request.method() === "PUT") seen.puts += 1;
  if (!["blob:", "data:"].includes(url.protocol) && url.origin !== new URL(options.url).origin) seen.foreign.push(request.url());
});
page.on("console", (message) => ["error", "warning"].includes(message.type()) && seen.complaints.push(message.text()));
page.on("pageerror", (error) => seen.complaints.push(String(error)));

/** Press Tab until the element has the focus, and see that the focus shows. */
async function tabTo(selector, key = "Tab") {
  for (let presses = 0; presses < 150; presses += 1) {
    if (await page.evaluate((wanted) => document.activeElement.matches(wanted), selector)) {
      const outline = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
      if (outline === "none") seen.faults.push(`the focus on ${selector} does not show`);
      return;
    }
    await page.keyboard.press(key);
  }
  throw new Error(`${selector} cannot be reached with ${key}`);
}

/** Elements that lie on each other or beyond the edge, faults that axe finds, and a picture. */
async function inspect(state) {
  await page.waitForFunction(() => [...document.images].every((image) => image.complete && image.naturalWidth));
  await page.screenshot({ path: join(options.pictures, `${state}-${name}.png`), fullPage: !state.startsWith("view") });
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => axe.run());
  for (const { id, nodes } of violations) seen.faults.push(`${state}: axe ${id} at ${nodes.map(({ html }) => html.slice(0, 120)).join(" and ")}`);
  const faults = await page.evaluate(() => {
    const found = [];
    const dialog = document.querySelector("dialog[open]");
    const root = dialog ?? document.body;
    const name = (element) => `${element.localName}#${element.id}.${element.className}`;
    const isShown = (element) => element.checkVisibility({ visibilityProperty: true }) && !element.matches(".hidden, .overlay, dialog, option");
    if (document.documentElement.scrollWidth > innerWidth) found.push(`the page is ${document.documentElement.scrollWidth} pixels wide`);
    for (const parent of [root, ...root.querySelectorAll("*")]) {
      if (!parent.checkVisibility()) continue;
      const boxes = [...parent.children].filter(isShown).map((child) => [child, child.getBoundingClientRect()]);
      for (const [index, [one, box]] of boxes.entries()) {
        if (box.width && box.right > innerWidth + 1 && !one.closest("pre")) found.push(`${name(one)} ends at ${box.right}`);
        for (const [other, second] of boxes.slice(index + 1)) {
          const across = Math.min(box.right, second.right) - Math.max(box.left, second.left);
          const down = Math.min(box.bottom, second.bottom) - Math.max(box.top, second.top);
          if (across > 1 && down > 1) found.push(`${name(one)} lies on ${name(other)} by ${across} x ${down}`);
        }
      }
      const isClipped = parent.scrollWidth > parent.clientWidth + 1 && getComputedStyle(parent).overflowX === "hidden";
      if (isClipped && parent.clientWidth && !parent.matches(".hidden")) found.push(`${name(parent)} is cut off`);
    }
    return found;
  });
  seen.faults.push(...faults.map((fault) => `${state}: ${fault}`));
}

/** Drop a file on the page as the browser does it for a user: a trusted event. */
async function drop(path) {
  const session = await context.newCDPSession(page);
  const box = await page.locator("#drop").boundingBox();
  await page.evaluate(() => scrollTo(0, 0));
  const at = { x: box.x + box.width / 2, y: 200, data: { items: [], files: [path], dragOperationsMask: 1 } };
  for (const type of ["dragEnter", "dragOver", "drop"]) await session.send("Input.dispatchDragEvent", { type, ...at });
}

const text = (selector) => page.locator(selector).innerText();

await page.goto(`${options.url}/playground`);

if (options.key) {
  await page.waitForSelector("#key[open]");
  await inspect("key");
  await page.keyboard.type("a wrong key");
  await page.keyboard.press("Enter");
  await page.waitForFunction(() => document.querySelector("#key-error").textContent !== "");
  seen.wrongKey = await text("#key-error");
  await page.keyboard.type(options.key);
  await page.keyboard.press("Enter");
}
await page.waitForFunction(() => document.querySelector("#limits").textContent !== "");
seen.limits = await text("#limits");
await inspect("start");

// Without a document
await tabTo("#query");
await page.keyboard.type("museum");
await page.keyboard.press("Enter");
seen.withoutDocument = await text("#query-error");

// The sample, two settings, ranked
await tabTo("#sample", "Shift+Tab");
await page.keyboard.press("Enter");
await page.waitForSelector("#documents li");
await tabTo("#query");
await page.keyboard.press("Control+A");
await page.keyboard.type(options.query);
await tabTo("#keep-a");
for (let step = 0; step < 3; step += 1) await page.keyboard.press("ArrowLeft");
seen.ratio = await text("#keep-a-text");
await tabTo("#compare");
await page.keyboard.press("Space");
await tabTo("#keep-b");
await page.keyboard.press("End");
await tabTo("#rank");
await page.keyboard.press("Enter");
await page.waitForSelector("#runs.two");
seen.status = await text("#status");
seen.agreement = await text("#agreement");
seen.labels = await page.locator("#runs > :first-child .label").allInnerTexts();
seen.moves = await page.locator("#runs > :first-child .move").allTextContents();
seen.stages = await page.locator("#runs > :first-child .stages dt").allInnerTexts();
seen.vision = await page.locator("#runs > :first-child dt.vision + dd").innerText();
seen.widths = await page.locator("#runs > :first-child .part").evaluateAll((parts) => parts.map((part) => part.getBoundingClientRect().width));
seen.requestId = await page.locator("#runs > :first-child code").innerText();
await inspect("ranked");

// The overlay
await tabTo("#overlay");
await page.keyboard.press("Space");
seen.overlaysShown = await page.locator("#runs canvas.overlay").evaluateAll((all) => all.filter((one) => one.checkVisibility({ visibilityProperty: true })).length);
await inspect("overlay");
await page.keyboard.press("h");
seen.overlaysHidden = await page.locator("#runs canvas.overlay").evaluateAll((all) => all.filter((one) => !one.checkVisibility({ visibilityProperty: true })).length);
await page.keyboard.press("h");

// The large view
await tabTo("#runs > :first-child button.page");
await page.keyboard.press("Enter");
await page.waitForSelector("#view[open]");
await page.waitForFunction(() => document.querySelector("#view img")?.naturalWidth);
seen.view = await text("#view-title");
seen.facts = await text("#view-facts");
seen.mask = await page.evaluate(() => {
  const canvas = document.querySelector("#view canvas");
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return { rows: canvas.height, columns: canvas.width, kept: Array.from({ length: data.length / 4 }, (_, cell) => (data[cell * 4 + 3] === 0 ? 1 : 0)) };
});
seen.covers = await page.evaluate(() => {
  const [image, canvas] = ["#view img", "#view canvas"].map((selector) => document.querySelector(selector).getBoundingClientRect());
  return ["left", "top", "right", "bottom"].every((side) => Math.abs(image[side] - canvas[side]) < 1);
});
await inspect("view");
await page.keyboard.press("j");
await page.waitForFunction((before) => document.querySelector("#view-title").textContent !== before, seen.view);
seen.nextView = await text("#view-title");
await page.keyboard.press("Escape");
await page.waitForFunction((label) => document.activeElement.getAttribute("aria-label")?.includes(label), seen.nextView);
seen.focusAfterView = await page.evaluate(() => document.activeElement.getAttribute("aria-label"));

// Marks
await tabTo("#runs > :first-child li:nth-child(2) input");
await page.keyboard.press("Space");
seen.ndcg = await text("#ndcg");
await tabTo("#export");
const download = page.waitForEvent("download");
await page.keyboard.press("Enter");
seen.judged = await readFile(await (await download).path(), "utf8");

// Code
await tabTo("input[name=client]");
await page.keyboard.press("ArrowRight");
seen.python = await page.locator("#snippet").textContent();
await tabTo("#copy");
await page.keyboard.press("Enter");
await page.waitForFunction(() => document.querySelector("#status").textContent.includes("copied"));
seen.copied = await page.evaluate(() => navigator.clipboard.readText());
await page.keyboard.press("Shift+Tab");
await tabTo("input[name=client]", "Shift+Tab");
await page.keyboard.press("ArrowRight");
seen.cohere = await page.locator("#snippet").textContent();
await page.keyboard.press("ArrowRight");
seen.curl = await page.locator("#snippet").textContent();

// Another document, dropped
await tabTo("#documents button", "Shift+Tab");
await page.keyboard.press("Enter");
await page.waitForSelector("#documents li", { state: "detached" });
const putsBefore = seen.puts;
await drop(options.large);
await page.waitForFunction(() => document.querySelector("#document-error").textContent !== "");
seen.tooLarge = await text("#document-error");
seen.putsOfTooLarge = seen.puts - putsBefore;
await drop(options.dropped);
await page.waitForSelector("#documents li");
seen.documents = await page.locator("#documents li").allInnerTexts();
await tabTo("#query");
await page.keyboard.press("Enter");
await page.waitForSelector("#runs.two");
seen.droppedLabels = await page.locator("#runs > :first-child .label").allInnerTexts();
await inspect("dropped");
await page.goto("about:blank");
seen.foreign = seen.foreign.filter((url) => url !== "about:blank");
// The page deletes its documents when it is closed. The browser must live until it has sent that.
const headers = options.key ? { Authorization: `Bearer ${options.key}` } : {};
for (const end = Date.now() + PATIENCE; Date.now() < end; await new Promise((resume) => setTimeout(resume, 50))) {
  const { data } = await (await fetch(`${options.url}/documents`, { headers })).json();
  seen.leftBehind = data.map(({ id }) => id);
  if (data.length === 0) break;
}
await browser.close();
console.log(JSON.stringify(seen));
