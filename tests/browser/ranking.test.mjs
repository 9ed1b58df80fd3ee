// The figures of the playground, without a browser: `node --test`.

import assert from "node:assert/strict";
import { test } from "node:test";

import { kendallTau, moves, ndcg, stagesOf } from "../../service/http/playground/ranking.js";
import { snippet } from "../../service/http/playground/snippets.js";

const near = (value, expected) => assert.ok(Math.abs(value - expected) < 1e-12, `${value} is not ${expected}`);

test("a page that rises has a positive move, and pages of one order alone have none", () => {
  assert.deepEqual([...moves(["a", "b", "c"], ["c", "b", "a", "d"])], [["c", 2], ["b", 0], ["a", -2]]);
});

test("Kendall's tau is 1 for equal orders, -1 for reversed ones, and by pairs between them", () => {
  assert.equal(kendallTau(["a", "b", "c"], ["a", "b", "c"]), 1);
  assert.equal(kendallTau(["a", "b", "c"], ["c", "b", "a"]), -1);
  near(kendallTau(["a", "b", "c", "d"], ["b", "a", "c", "d"]), 4 / 6);
  assert.equal(kendallTau(["a"], ["a"]), null);
});

test("nDCG is 1 where the relevant pages come first, and falls by the logarithm of the place", () => {
  assert.equal(ndcg(["a", "b", "c"], new Set(["a", "b"]), 5), 1);
  near(ndcg(["a", "b", "c"], new Set(["b"]), 5), 1 / Math.log2(3));
  near(ndcg(["a", "b", "c", "d"], new Set(["a", "d"]), 3), 1 / (1 + 1 / Math.log2(3)));
  near(ndcg(["a", "b", "c"], new Set(["a", "b", "c"]), 1), 1);
  assert.equal(ndcg(["a", "b", "c"], new Set(["c"]), 2), 0);
  assert.equal(ndcg(["a"], new Set(["z"]), 2), null);
});

test("the stages of the bar add up to the total", () => {
  const stages = stagesOf({ parse: 3, render: 10, prepare: 2, queue: 1, upload: 1, vision: 20, compress: 2, pack: 1, language: 30, total: 75 });
  const expected = { queue: 1, render: 12, vision: 21, prune: 3, language: 30, other: 8 };
  assert.deepEqual(Object.fromEntries(stages.map(({ id, ms }) => [id, ms])), expected);
  assert.equal(stagesOf({ language: 5, total: 4 }).at(-1).ms, 0);
});

const REQUEST = { url: "http://h:1/r", query: "o'clock \"x\" $(id)", keepRatio: 0.5, names: ["it's.pdf"], hasKey: true };

test("names and questions are quoted for the shell", () => {
  const code = snippet("curl", REQUEST);
  assert.ok(code.includes(`'query=o'\\''clock "x" $(id)'`), code);
  assert.ok(code.includes(`-F 'file=@"it'\\''s.pdf"'`), code);
  assert.ok(code.includes(`-H "Authorization: Bearer $ZIPRERANK_API_KEY"`), code);
});

test("without a key no code has one", () => {
  for (const client of ["curl", "python", "cohere"]) {
    assert.ok(snippet(client, REQUEST).includes("ZIPRERANK_API_KEY"), client);
    assert.ok(!snippet(client, { ...REQUEST, hasKey: false }).includes("KEY"), client);
  }
});
