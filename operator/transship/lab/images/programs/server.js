// A server that also watches a directory, uses the pool of threads, and has a worker of its own.
"use strict";
const crypto = require("node:crypto");
const fs = require("node:fs");
const net = require("node:net");
const readline = require("node:readline");
const { Worker } = require("node:worker_threads");

const values = new Map();
const watched = fs.mkdtempSync("/tmp/watched-");
let changes = 0;
fs.watch(watched, () => { changes += 1; });
setInterval(() => fs.writeFile(`${watched}/file`, `${changes}`, () => {}), 50);
setInterval(() => crypto.pbkdf2("a", "b", 1000, 32, "sha256", () => {}), 20);
new Worker("setInterval(() => Array.from({ length: 1000 }, Math.random), 10)", { eval: true });

function answer(line) {
  const [verb, key, value] = line.split(" ");
  if (verb === "get") return values.get(key);
  values.set(key, value);
  return "ok";
}

net.createServer((connection) => {
  connection.on("error", () => connection.destroy());
  readline.createInterface({ input: connection })
    .on("line", (line) => connection.write(`${answer(line)}\n`));
}).listen(7000);
