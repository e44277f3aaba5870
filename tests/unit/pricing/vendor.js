// Where the figures by hand in this folder's tests come from (`node vendor.js`, Node 20 or newer with full ICU); when there
// is a Node, tests/node compares them. Written from the published rules alone; it shares nothing with the Python code.
// It reads inputs.json, which the tests read too, and prints what JavaScript makes of it.
'use strict';
const { createHash } = require('node:crypto');
const { readFileSync } = require('node:fs');
const { join } = require('node:path');

const byCodeUnit = (a, b) => (a < b ? -1 : a > b ? 1 : 0);

function sortedKeys(value) {
  if (Array.isArray(value)) return value.map(sortedKeys);
  if (value === null || typeof value !== 'object') return value;
  return Object.fromEntries(Object.keys(value).sort(byCodeUnit).map((key) => [key, sortedKeys(value[key])]));
}

function canonical(profile) {
  const rules = profile.rateRules
    .filter((rule) => rule.status !== 'disabled')
    .map((rule) => ({
      id: rule.id,
      dimensionKey: rule.dimensionKey,
      creditsPerUnit: rule.creditsPerUnit,
      costPerUnitEur: rule.costPerUnitEur ?? null,
      attributesMatch: Object.fromEntries(
        Object.entries(rule.attributesMatch ?? {}).map(([key, value]) => [
          key,
          Array.isArray(value) ? [...value].sort(byCodeUnit) : value,
        ]),
      ),
      priority: rule.priority ?? 0,
      status: rule.status ?? 'active',
    }))
    .sort((a, b) => a.dimensionKey.localeCompare(b.dimensionKey) || a.id.localeCompare(b.id));
  return JSON.stringify(sortedKeys(rules));
}

const inputs = JSON.parse(readFileSync(process.argv[2] ?? join(__dirname, 'inputs.json'), 'utf8'));
const figures = {
  hashes: Object.fromEntries(
    Object.entries(inputs.profiles).map(([name, profile]) => [
      name,
      createHash('sha256').update(canonical(profile), 'utf8').digest('hex'),
    ]),
  ),
  canonical: Object.fromEntries(Object.entries(inputs.profiles).map(([name, profile]) => [name, canonical(profile)])),
  numbers: inputs.numbers.map((text) => JSON.stringify(JSON.parse(text))),
  strings: inputs.strings.map((text) => JSON.stringify(text)),
  names: [...inputs.names].sort((a, b) => a.localeCompare(b)),
  dates: inputs.dates.map((text) => Date.parse(text)),
};
console.log(JSON.stringify(figures, null, process.argv[2] ? 0 : 1));
