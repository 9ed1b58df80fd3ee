// Figures about orders of pages. Pure: knows neither the page nor the service.

/**
 * How far each key moved up from one order to another (negative: down).
 * @param {string[]} before
 * @param {string[]} after
 * @returns {Map<string, number>} by key; keys that are in one order alone are left out
 */
export function moves(before, after) {
  const places = new Map(before.map((key, place) => [key, place]));
  return new Map(after.flatMap((key, place) => (places.has(key) ? [[key, places.get(key) - place]] : [])));
}

/**
 * Kendall's tau of two orders of the same keys: 1 for equal ones, -1 for reversed ones.
 * @returns {number | null} null for fewer than two keys
 */
export function kendallTau(first, second) {
  const places = new Map(second.map((key, place) => [key, place]));
  const order = first.filter((key) => places.has(key)).map((key) => places.get(key));
  if (order.length < 2) return null;
  let balance = 0;
  for (let left = 0; left < order.length; left += 1) {
    for (let right = left + 1; right < order.length; right += 1) balance += order[left] < order[right] ? 1 : -1;
  }
  return balance / ((order.length * (order.length - 1)) / 2);
}

/**
 * nDCG of the first `cutoff` places, where pages are relevant or not.
 * @param {string[]} order best first
 * @param {Set<string>} relevant
 * @returns {number | null} null where no page of the order is relevant
 */
export function ndcg(order, relevant, cutoff) {
  const gain = (place) => 1 / Math.log2(place + 2);
  const total = order.filter((key) => relevant.has(key)).length;
  if (total === 0) return null;
  let sum = 0;
  let best = 0;
  for (let place = 0; place < Math.min(cutoff, order.length); place += 1) {
    if (relevant.has(order[place])) sum += gain(place);
    if (place < total) best += gain(place);
  }
  return sum / best;
}

const STAGES = [
  ["queue", "Queue", ["queue"]],
  ["render", "Render", ["fetch", "render", "decode", "prepare"]],
  ["vision", "Vision", ["upload", "vision"]],
  ["prune", "Prune", ["compress", "pack"]],
  ["language", "Language", ["language"]],
];

/**
 * The stages of a request as the bar shows them.
 * @param {Record<string, number>} timings milliseconds by stage of the service, and `total`
 * @returns {{id: string, name: string, ms: number}[]} the last one is what no stage accounts for
 */
export function stagesOf(timings) {
  const stages = STAGES.map(([id, name, parts]) => ({
    id,
    name,
    ms: parts.reduce((sum, part) => sum + (timings[part] ?? 0), 0),
  }));
  const known = stages.reduce((sum, stage) => sum + stage.ms, 0);
  return [...stages, { id: "other", name: "Other", ms: Math.max(0, (timings.total ?? known) - known) }];
}
