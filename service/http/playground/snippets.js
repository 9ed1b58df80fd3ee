// The shown request as code for a terminal, for Python and for Cohere's SDK. The key is never in it.

const shell = (text) => `'${text.replaceAll("'", "'\\''")}'`;
const literal = (text) => JSON.stringify(text).replaceAll("\u007f", "\\u007f"); // JSON's strings are also Python's

/**
 * @param {"curl" | "python" | "cohere"} client
 * @param {{url: string, query: string, keepRatio: number, names: string[], hasKey: boolean}} request
 */
export function snippet(client, request) {
  return { curl, python, cohere }[client](request);
}

function curl({ url, query, keepRatio, names, hasKey }) {
  const lines = [`curl ${shell(`${url}/rerank`)}`];
  if (hasKey) lines.push(`-H "Authorization: Bearer $ZIPRERANK_API_KEY"`);
  lines.push(`--form-string ${shell(`query=${query}`)}`);
  lines.push(...names.map((name) => `-F ${shell(`file=@"${name}"`)}`));
  lines.push(`--form-string ${shell(`ziprerank={"keep_ratio": ${keepRatio}}`)}`);
  return lines.join(" \\\n  ");
}

function python({ url, query, keepRatio, names, hasKey }) {
  return [
    ...(hasKey ? ["import os", ""] : []),
    "import httpx",
    "",
    `names = [${names.map(literal).join(", ")}]`,
    "answer = httpx.post(",
    `    ${literal(`${url}/rerank`)},`,
    `    data={"query": ${literal(query)}, "ziprerank": ${literal(`{"keep_ratio": ${keepRatio}}`)}},`,
    '    files=[("file", (name, open(name, "rb"))) for name in names],',
    ...(hasKey ? [`    headers={"Authorization": f"Bearer {os.environ['ZIPRERANK_API_KEY']}"},`] : []),
    "    timeout=120,",
    ").raise_for_status().json()",
    'for result in answer["results"]:',
    '    print(result["id"], result["relevance_score"])',
  ].join("\n");
}

function cohere({ url, query, keepRatio, names, hasKey }) {
  return [
    "import base64",
    ...(hasKey ? ["import os"] : []),
    "",
    "import cohere",
    "",
    "",
    "def data_uri(name):",
    '    kind = "application/pdf" if name.lower().endswith(".pdf") else "image/png"',
    '    with open(name, "rb") as file:',
    '        return f"data:{kind};base64,{base64.b64encode(file.read()).decode()}"',
    "",
    "",
    `client = cohere.ClientV2(api_key=${hasKey ? 'os.environ["ZIPRERANK_API_KEY"]' : '"none"'}, base_url=${literal(url)})`,
    `names = [${names.map(literal).join(", ")}]`,
    "answer = client.rerank(",
    '    model="ziprerank",',
    `    query=${literal(query)},`,
    "    documents=[data_uri(name) for name in names],",
    `    request_options={"additional_body_parameters": {"ziprerank": {"keep_ratio": ${keepRatio}, "results": "pages"}}},`,
    ")",
    "for result in answer.results:",
    "    print(names[result.index], result.page, result.relevance_score)",
  ].join("\n");
}
