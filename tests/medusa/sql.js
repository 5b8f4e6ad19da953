// Prints what Medusa's migrations run, as a JSON list of lists of statements.
// usage: node sql.js DIRECTORY_OF_THE_MIGRATIONS
"use strict";

const fs = require("fs");
const Module = require("module");
const path = require("path");

const OFF = "medusa_v2"; // the flag of migrations that run only where somebody has asked for it

// All that they take from other packages; the countries and currencies would be rows.
const utils = { MedusaV2Flag: { key: OFF }, defaultCountries: [], defaultCurrencies: {} };
const load = Module._load;
Module._load = (name, ...rest) => (name === "@medusajs/utils" ? utils : load(name, ...rest));

async function statementsOf(Migration) {
  const statements = [];
  const query = async (text) => {
    statements.push(text);
    // One of them asks whether a column is there that only an early version made.
    return [{ exists: false }];
  };
  await new Migration().up({ query });
  return statements;
}

async function main(directory) {
  const migrations = [];
  for (const file of fs.readdirSync(directory).sort()) {
    const { featureFlag, ...classes } = require(path.join(directory, file));
    if ([featureFlag].flat().includes(OFF)) continue;
    for (const Migration of Object.values(classes)) migrations.push(await statementsOf(Migration));
  }
  process.stdout.write(JSON.stringify(migrations));
}

main(path.resolve(process.argv[2]));
