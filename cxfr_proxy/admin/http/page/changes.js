// Changes that are worth saying aloud, for those who listen to the page instead of looking at it.

import { adminState, health } from "./nodes.js";
import { clean, counted } from "./format.js";

const MOST = 3;

/** What has changed between two lists of nodes, in sentences. */
export const changesInWords = (before, after) => {
  const known = new Map(before.map((row) => [row.name, row]));
  const said = [];
  for (const row of after) {
    const was = known.get(row.name);
    if (was === undefined) continue;
    if (was.health !== row.health) said.push(`${clean(row.name)} is ${health(row)[1]}.`);
    const [now, then] = [adminState(row)[1], adminState(was)[1]];
    if (now !== then) said.push(`${clean(row.name)}: ${now}.`);
  }
  return said.length > MOST ? [...said.slice(0, MOST), `${counted(said.length - MOST, "more change")}.`] : said;
};
