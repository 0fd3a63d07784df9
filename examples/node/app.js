"use strict";

module.exports = (request, response) => {
  response.setHeader("Content-Type", "text/plain");
  response.end(`hello from node ${process.version}, worker ${process.env.TRAPEZE_INDEX}\n`);
};
