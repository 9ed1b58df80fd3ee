// The kept visual tokens of a page, drawn over its image: one pixel of the canvas stands for one token.

/**
 * @param {{rows: number, columns: number, mask: string}} kept as the service answers: base64 of bytes, row by row
 * @returns {{rows: number, columns: number, cells: Uint8Array, count: number}}
 */
export function decodeMask(kept) {
  const cells = Uint8Array.from(atob(kept.mask), (character) => character.charCodeAt(0));
  if (cells.length !== kept.rows * kept.columns) throw new Error("The mask does not fit its rows and columns.");
  return { rows: kept.rows, columns: kept.columns, cells, count: cells.reduce((sum, cell) => sum + cell, 0) };
}

/** A canvas that dims the pruned tokens and leaves the kept ones clear. The style sheet stretches it over the page. */
export function drawOverlay(mask) {
  const canvas = document.createElement("canvas");
  canvas.className = "overlay";
  canvas.width = mask.columns;
  canvas.height = mask.rows;
  canvas.setAttribute("aria-hidden", "true");
  const context = canvas.getContext("2d");
  const image = context.createImageData(mask.columns, mask.rows);
  mask.cells.forEach((cell, index) => image.data.set(cell ? [0, 0, 0, 0] : [52, 66, 104, 138], index * 4));
  context.putImageData(image, 0, 0);
  return canvas;
}
