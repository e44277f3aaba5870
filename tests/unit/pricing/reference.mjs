// What JavaScript makes of generated price profiles: the figures in vectors.json.
//
//     TZ=UTC LC_ALL=en_US.UTF-8 node reference.mjs > vectors.json
//
// Written from the published rules alone, with JavaScript's own numbers, JSON, dates, localeCompare and SHA-256. It
// shares nothing with the Python code. The generator is seeded, so that every run prints the same.
import { createHash } from 'node:crypto';

let state = 20260115;
function random() {
  state = (state + 0x6d2b79f5) | 0;
  let t = Math.imul(state ^ (state >>> 15), 1 | state);
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
  return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
}
const below = (n) => Math.floor(random() * n);
const pick = (list) => list[below(list.length)];
const times = (n, make) => Array.from({ length: n }, make);

// ---- the runtime ----

const byCodeUnit = (a, b) => (a < b ? -1 : a > b ? 1 : 0);

function canonical(profile) {
  const rules = profile.rateRules
    .filter((rule) => rule.status !== 'disabled')
    .sort((a, b) => a.dimensionKey.localeCompare(b.dimensionKey) || a.id.localeCompare(b.id));
  const written = rules.map((rule) => {
    const attributes = Object.entries(rule.attributesMatch ?? {})
      .sort(([a], [b]) => byCodeUnit(a, b))
      .map(([key, value]) => {
        const wanted = Array.isArray(value) ? [...value].sort(byCodeUnit) : value;
        return `${JSON.stringify(key)}:${JSON.stringify(wanted)}`;
      });
    const rest = JSON.stringify({
      costPerUnitEur: rule.costPerUnitEur ?? null,
      creditsPerUnit: rule.creditsPerUnit,
      dimensionKey: rule.dimensionKey,
      id: rule.id,
      priority: rule.priority ?? 0,
      status: rule.status ?? 'active',
    });
    return `{"attributesMatch":{${attributes.join(',')}},${rest.slice(1)}`;
  });
  return `[${written.join(',')}]`;
}

function matches(rule, dimension, attributes) {
  if (rule.status === 'disabled' || rule.dimensionKey !== dimension) return false;
  return Object.entries(rule.attributesMatch ?? {}).every(([key, wanted]) => {
    if (!Object.hasOwn(attributes, key)) return false;
    return Array.isArray(wanted) ? wanted.includes(attributes[key]) : wanted === attributes[key];
  });
}

function created(rule) {
  const time = typeof rule.createdAt === 'string' ? Date.parse(rule.createdAt) : NaN;
  return Number.isNaN(time) ? -Infinity : time;
}

function better(a, b) {
  const [p, q] = [a.priority ?? 0, b.priority ?? 0];
  if (p !== q) return p > q ? -1 : 1;
  if (created(a) !== created(b)) return created(a) > created(b) ? -1 : 1;
  return byCodeUnit(a.id, b.id);
}

function price(profile, hash, { dimensions, attributes, mode }) {
  const mismatch = profile.rulesetHash !== undefined && profile.rulesetHash !== hash;
  if (mismatch && mode === 'STRICT') return { error: 'RULESET_HASH_MISMATCH' };
  const breakdown = [];
  const unmatched = [];
  let totalCredits = 0;
  for (const [dimensionKey, qty] of Object.entries(dimensions)) {
    if (!Number.isFinite(qty) || qty <= 0) continue;
    const rule = profile.rateRules.filter((each) => matches(each, dimensionKey, attributes)).sort(better)[0];
    if (rule === undefined) {
      unmatched.push(dimensionKey);
      continue;
    }
    const credits = qty * rule.creditsPerUnit;
    totalCredits += credits;
    const line = { dimensionKey, qty, creditsPerUnit: rule.creditsPerUnit, credits };
    if (rule.costPerUnitEur != null) {
      line.costPerUnitEur = rule.costPerUnitEur;
      line.costEur = qty * rule.costPerUnitEur;
    }
    breakdown.push({ ...line, ruleId: rule.id });
  }
  if (unmatched.length && mode === 'STRICT') return { error: 'UNMATCHED_DIMENSION', unmatched };
  return {
    totalCredits,
    breakdown,
    unmatched,
    quarantine: mismatch ? 'RULESET_HASH_MISMATCH' : unmatched.length ? 'UNMATCHED_DIMENSION' : null,
  };
}

// ---- what it is asked ----

const ascii = times(94, (_, i) => String.fromCharCode(33 + i));
const latin1 = times(0x100 - 0xa0, (_, i) => String.fromCharCode(0xa0 + i));
const words = ['llm', 'input', 'Input', 'output', 'gpt-5', 'GPT', 'fallback', 'cote', 'coté', 'côte', 'Zürich', 'straße'];
const marks = ['_', '-', '.', ':', '/', ' ', '', '2', '10', '1'];
const accents = ['\u0300', '\u0301', '\u0308', '\u0327', '\u0303', '\u030a'];

const span = (first, last) => times(last - first + 1, (_, i) => String.fromCodePoint(first + i));
const scripts = {
  latin: [...span(0x100, 0x131), ...span(0x134, 0x148), ...span(0x14a, 0x17f), ...span(0x1e00, 0x1eff), ...accents],
  greek: [...span(0x386, 0x38a), ...span(0x38e, 0x3ce), ...span(0x1f00, 0x1f15)].filter((c) => /\p{L}/u.test(c)),
  cyrillic: [...span(0x400, 0x45f), ...span(0x48a, 0x4ff)],
  hebrew: [...span(0x5d0, 0x5ea), ...span(0x5b0, 0x5bd)],
  arabic: [...span(0x621, 0x63a), ...span(0x641, 0x652), ...span(0x671, 0x674), ...span(0x679, 0x6d3)],
  armenian: [...span(0x531, 0x556), ...span(0x561, 0x586)],
  georgian: span(0x10d0, 0x10fa),
  devanagari: [...span(0x901, 0x939), ...span(0x93c, 0x94d), ...span(0x958, 0x96f)],
  bengali: [...span(0x995, 0x9a8), ...span(0x9be, 0x9c4), '\u09c7', '\u09cb', '\u09cd', '\u09d7'],
  tamil: [...span(0xb85, 0xb8a), ...span(0xbae, 0xbb9), ...span(0xbbe, 0xbc2), ...span(0xbc6, 0xbc8), ...span(0xbca, 0xbcd)],
  thai: [...span(0xe01, 0xe3a), ...span(0xe40, 0xe4e)],
  lao: [...span(0xe94, 0xea3), ...span(0xeb0, 0xeb9), ...span(0xec0, 0xec4), ...span(0xec8, 0xecd)],
  khmer: [...span(0x1780, 0x17a2), ...span(0x17b6, 0x17d2)],
  ethiopic: span(0x1200, 0x1248),
  kana: [...span(0x3041, 0x3096), ...span(0x30a1, 0x30fa), '\u3099', 'ー'],
  hangul: span(0xac00, 0xd7a3),
  han: span(0x4e00, 0x9fa5),
  signs: [...'–—‘’“”„‚†‡•‰€¢→←↑∞≈≠≤≥§¶…'].filter((c) => c !== '…').concat(span(0x1f600, 0x1f64f)),
};

function name() {
  const kind = below(12);
  if (kind > 9) {
    const script = pick(Object.values(scripts));
    return times(1 + below(4), () => pick(script)).join('') + (below(3) ? '' : `.${pick(words)}`);
  }
  const letter = kind < 5 ? () => pick(words) : kind < 7 ? () => pick(ascii) : () => pick([...latin1, ...ascii, ...accents]);
  const text = times(1 + below(4), () => letter() + pick(marks)).join('');
  return random() < 0.1 ? text.toUpperCase() : text;
}

const rates = [
  () => pick([0, 3, 3e-7, 0.1 + 0.2, 1e-6, 1e-7, 4.35, 0.00023, 1e21, 1e20, 123456789012345680000, 1.7e-9, 5e-324]),
  () => random(),
  () => Number(`${below(1000)}e-${below(12)}`),
  () => Number(`${random()}e${below(30) - 15}`),
];
const dates = [
  '2025', '2025-06', '2025-06-01', '2025-06-01T10:00:00Z', '2025-06-01T10:00:00.5Z', '2025-06-01T12:00:00+02:00',
  '2025-06-01T10:00:00', '2025-06-01 10:00:00', '2025-6-1', 'June 1, 2025', '1 Jun 2025 10:00 GMT', '6/1/2025',
  'Sun, 01 Jun 2025 10:00:00 GMT', 'Sun Jun 01 2025 10:00:00 GMT+0000 (Coordinated Universal Time)', '20250601',
  '2025-02-31', '2025-02-30', '2025-13-01', '1960-01-01', '+010000-01-01', '-000001-01-01', 'yesterday', '', 'x 2025',
  '2025-06-01T24:00:00Z', '2025-06-02', 'Jun 1 25', '1748772000000', '2025/06/01 10:00 PM', '2025-06-01T10:00:00,5Z',
];
const values = ['gpt-5', 'GPT-5', 'gpt-5-mini', 'o3', 'ä', '', 'pro', '"', '\u2028', '😀', '\ud800', '\ue000'];
const keys = ['model', 'tier', 'Region', 'kéy', 'ключ'];

function rule(id, dimensionKey) {
  const made = { id, dimensionKey, creditsPerUnit: pick(rates)() };
  const add = (field, chance, make) => random() < chance && (made[field] = make());
  add('costPerUnitEur', 0.4, () => pick([null, pick(rates)()]));
  add('priority', 0.5, () => pick([0, 1, 10, -1, 2.5, -0.5, 1e21, 3e-7, null, 100]));
  add('status', 0.3, () => pick(['active', 'disabled', 'draft', null]));
  add('createdAt', 0.6, () => pick([...dates, ...dates, null, 1748772000000]));
  add('attributesMatch', 0.6, () =>
    Object.fromEntries(
      times(below(3), () => [pick(keys), random() < 0.5 ? pick(values) : times(below(4), () => pick(values))]),
    ),
  );
  return made;
}

function profile(index) {
  const dimensions = [...new Set(times(1 + below(3), name))];
  const ids = [...new Set(times(below(11), name))];
  const made = { profileVersionId: `v${index}`, eurPerCredit: pick([0.01, 1, 3e-7, 0.1 + 0.2]), rateRules: [] };
  made.rateRules = ids.map((id) => rule(id, pick(dimensions)));
  return [made, dimensions];
}

const quantities = [
  () => below(5000),
  () => random() * 1000,
  () => pick([0, -1, 0.1 + 0.2, 1e-7, 123456789, 1, 3, 5e-324]),
];

function vector(_, index) {
  const [made, dimensions] = profile(index);
  const text = canonical(made);
  const hash = createHash('sha256').update(text, 'utf8').digest('hex');
  const stated = below(4);
  if (stated === 0) made.rulesetHash = hash;
  if (stated === 1) made.rulesetHash = createHash('sha256').update(`${text} `).digest('hex');
  const cases = times(3, () => {
    const asked = {
      dimensions: Object.fromEntries([...dimensions, ...(below(6) ? [] : ['other'])].map((d) => [d, pick(quantities)()])),
      attributes: Object.fromEntries(times(below(4), () => [pick(keys), pick(values)])),
      mode: pick(['STRICT', 'RUNTIME', 'RUNTIME']),
    };
    return { ...asked, expected: price(made, hash, asked) };
  });
  return { profile: made, hash, cases };
}

// ---- JavaScript itself ----

const pieces = [
  '2025', '1', '01', '12', '31', '00', '24', '59', '60', '99', '49', '000000', '+', '-', '-', ':', ':', ' ', ' ', '.', '/',
  ', ', 'T', 'Z', 'z', 'UTC', 'GMT', 'Jan', 'March', 'Sept', 'am', 'PM', 'EST', '(x)', '(', ')', 'Wed', 'foo', '2025-01-01',
  '2025-02-03T10:00', '10:30', '10:30:15', '+01:00', '-0800', '123456', '1234567890123', 'é', '_', '\u3000', '032',
];
const readable = (text) => !Number.isNaN(Date.parse(text));
const generated = times(4000, () => times(1 + below(7), () => pick(pieces)).join(''));
const odd = ['-000000-01-01', 'Jan 1 2025 10::30', '10:: Jan 1 2025', '10:30 11:: Jan 1 2025', 'Jan 1 2025 1:2:3:4:5', '1 2 3 4'];
const asked = [...dates, ...odd, ...generated.filter(readable).slice(0, 250), ...generated.filter((t) => !readable(t)).slice(0, 120)];
const doubles = times(250, () => {
  const view = new DataView(new ArrayBuffer(8));
  view.setUint32(0, random() * 2 ** 32);
  view.setUint32(4, random() * 2 ** 32);
  const value = random() < 0.5 ? view.getFloat64(0) : Number(`${random()}e${below(50) - 25}`);
  return Number.isFinite(value) ? value : 0;
});
const names = [...new Set(times(400, name))];
const inOrder = (list) => [...new Set(list)].sort((a, b) => a.localeCompare(b) || byCodeUnit(a, b));
// Few different letters, so that accents and cases decide.
const inScript = ([script, letters]) => {
  const few = times(6, () => pick(letters));
  return [script, inOrder(times(60, () => times(1 + below(4), () => pick(random() < 0.7 ? few : letters)).join('')))];
};

const vectors = {
  dates: asked.map((text) => [text, Date.parse(text)]),
  numbers: doubles.map((value) => [value.toExponential(16), JSON.stringify(value)]),
  names: inOrder(names),
  scripts: Object.entries(scripts).map(inScript),
  profiles: times(110, vector),
};
// One line for each, so that a change can be read; all ASCII, so that no editor changes it.
const line = (value) =>
  JSON.stringify(value).replace(/[\u007f-\uffff]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`);
const section = ([key, list]) => `${JSON.stringify(key)}: [\n${list.map(line).join(',\n')}\n]`;
process.stdout.write(`{\n${Object.entries(vectors).map(section).join(',\n')}\n}\n`);
