// JavaScript clients: a case a line on standard input, an answer a line on standard output (as answering.py describes them).

import { createCohere } from "@ai-sdk/cohere";
import { createTogetherAI } from "@ai-sdk/togetherai";
import { CohereRerank } from "@langchain/cohere";
import { Document } from "@langchain/core/documents";
import { rerank } from "ai";
import { CohereClient, CohereClientV2 } from "cohere-ai";
import { createInterface } from "node:readline";

const top = (asked) => asked.top_n ?? undefined;

async function cohereClient(Client, asked) {
  const client = new Client({ token: asked.key, environment: asked.root });
  const { model, query, documents } = asked;
  const answer = await client.rerank({ model, query, documents, topN: top(asked) });
  return answer.results.map((result) => [result.index, result.relevanceScore]);
}

async function langchainCohere(asked) {
  const client = new CohereClient({ token: asked.key, environment: asked.root });
  const compressor = new CohereRerank({ client, model: asked.model, topN: asked.top_n ?? asked.documents.length });
  const documents = asked.documents.map((pageContent, place) => new Document({ pageContent, metadata: { place } }));
  const compressed = await compressor.compressDocuments(documents, asked.query);
  return compressed.map((document) => [document.metadata.place, document.metadata.relevanceScore]);
}

async function aiRerank(model, asked) {
  const { query, documents } = asked;
  const answer = await rerank({ model, query, documents, topN: top(asked) });
  return answer.ranking.map((result) => [result.originalIndex, result.score]);
}

function aiCohere(asked) {
  const provider = createCohere({ apiKey: asked.key, baseURL: `${asked.root}/v2` });
  return aiRerank(provider.reranking(asked.model), asked);
}

function aiTogether(asked) {
  const provider = createTogetherAI({ apiKey: asked.key, baseURL: `${asked.root}/v1` });
  return aiRerank(provider.reranking(asked.model), asked);
}

const clients = {
  "cohere-ai CohereClient": (asked) => cohereClient(CohereClient, asked),
  "cohere-ai CohereClientV2": (asked) => cohereClient(CohereClientV2, asked),
  "@langchain/cohere CohereRerank": langchainCohere,
  "ai @ai-sdk/cohere": aiCohere,
  "ai @ai-sdk/togetherai": aiTogether,
};

console.log = console.error; // what clients print does not mix with the answers

for await (const line of createInterface({ input: process.stdin })) {
  const { client, ...asked } = JSON.parse(line);
  let answer;
  try {
    answer = { ranking: await clients[client](asked) };
  } catch (error) {
    answer = { error: `${error.constructor.name}: ${error.message}` };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
