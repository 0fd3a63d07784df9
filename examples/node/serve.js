// Serves app.js on the sockets that trapeze passes, and leaves without losing a request.
"use strict";

const fs = require("node:fs");
const http = require("node:http");
const net = require("node:net");
const path = require("node:path");

const app = require(path.resolve(process.env.APP || "app.js"));
const GRACE = 1000; // milliseconds that idle connections stay open when this process leaves

const fds = Array.from({ length: Number(process.env.LISTEN_FDS) }, (_, place) => 3 + place);
const servers = fds.map(() => http.createServer(answer));
let stopping = false;

function answer(request, response) {
  // The client is told while it still may be: it will not send its next request into a connection that closes.
  if (stopping) response.shouldKeepAlive = false;
  app(request, response);
}

// Node has no Unix sockets of datagrams, which NOTIFY_SOCKET is; the same socket is open as a descriptor.
function say(text) {
  if (process.env.TRAPEZE_NOTIFY_FD) fs.writeSync(Number(process.env.TRAPEZE_NOTIFY_FD), text);
}

function stop() {
  if (stopping) return;
  stopping = true;
  say("STOPPING=1");
  let open = servers.length;
  for (const server of servers) {
    // Not server.close(): that one also closes, at once, connections whose request has arrived and was not read yet.
    net.Server.prototype.close.call(server, () => {
      if (--open === 0) process.exit(0);
    });
    setTimeout(() => closeIdle(server), GRACE);
  }
}

function closeIdle(server) {
  // In the phase of the event loop that comes after reading: whose request is there by now is not idle.
  setImmediate(() => {
    server.closeIdleConnections();
    setTimeout(() => closeIdle(server), 100);
  });
}

process.on("SIGTERM", stop);
process.on("SIGINT", () => process.exit(0));

let listening = 0;
servers.forEach((server, place) => {
  server.keepAliveTimeout = 75_000; // longer than the proxy in front keeps its connections
  server.listen({ fd: fds[place], backlog: 2048 }, () => {
    if (++listening === servers.length) say("READY=1");
  });
});
