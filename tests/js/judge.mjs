// A line in, a line out: what cxfr.js makes of texts and requests, for a test that asks Python the same.
// {"server": text} -> a server or null; {"request": {...}, "situation": {...}} -> a move or a refusal.

import { createInterface } from "node:readline";

const { judge, parseServer } = await import(process.argv[2]);

for await (const line of createInterface({ input: process.stdin })) {
  const { server, request, situation } = JSON.parse(line);
  const answer = request === undefined ? parseServer(server) : judge(request, situation);
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
