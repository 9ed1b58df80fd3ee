"""The published protocol for page-level reranking: recall on MMDocIR, by domain, beside the first stage's own."""
