// How localeCompare orders characters: the table that countwerk_meter/pricing/collation.json holds.
//
//     node collation.mjs > ../../countwerk_meter/pricing/collation.json
//
// Nothing is read but the answers of Intl.Collator itself (Unicode's root order, which English uses). Which letters
// differ is found by comparing; what a character stands for (`½` for `1⁄2`, `æ` for `ae`) by searching, since U+FFFF
// sorts behind everything and a grapheme joiner (U+034F) keeps two characters from being taken for one.
const variant = new Intl.Collator('en');
const base = new Intl.Collator('en', { sensitivity: 'base' });
const accent = new Intl.Collator('en', { sensitivity: 'accent' });
const LAST = '\uffff';
const JOINER = '\u034f';

// Left out: Hangul syllables, which are their letters; rare Han; the presentation forms of compatibility blocks.
const left = [[0x2e80, 0x2fdf], [0x3200, 0x33ff], [0x3400, 0x4dbf], [0xac00, 0xd7a3], [0xd800, 0xf8ff], [0xf900, 0xfaff], [0xfb50, 0xfdff], [0xfe70, 0xfefe]];
const taken = [[0, 0xffff], [0x1f000, 0x1faff]];
const scripts = ['Latin', 'Greek', 'Cyrillic', 'Hebrew', 'Arabic', 'Armenian', 'Georgian', 'Thai', 'Lao', 'Devanagari', 'Bengali',
  'Gurmukhi', 'Gujarati', 'Oriya', 'Tamil', 'Telugu', 'Kannada', 'Malayalam', 'Sinhala', 'Ethiopic', 'Khmer', 'Hiragana',
  'Katakana', 'Bopomofo', 'Hangul', 'Han'];
const ofScript = scripts.map((name) => new RegExp(`^\\p{Script=${name}}$`, 'u'));
const shared = /^[\p{Script=Common}\p{Script=Inherited}]$/u;
const scriptOf = (s) => (shared.test(s) ? -1 : ofScript.findIndex((one) => one.test(s)));

const hex = (s) => [...s].map((c) => c.codePointAt(0).toString(16)).join('+');
const characters = [];
for (const [first, last] of taken) {
  for (let code = first; code <= last; code++) {
    if (left.some(([from, to]) => code >= from && code <= to)) continue;
    const s = String.fromCodePoint(code);
    if (/\p{Cn}/u.test(s)) continue;
    // A script that is not listed is not promised.
    if (!shared.test(s) && scriptOf(s) < 0) continue;
    characters.push(s);
  }
}
const single = characters.filter((s) => s.normalize('NFD') === s);

// Pairs that are compared as one: canonical ones, and those that a script reorders or joins.
const pairs = new Set();
const weightless = (s) => base.compare(s, '') === 0;
const differs = (x, y) => !weightless(x) && variant.compare(x + JOINER + y, x + y) !== 0;
for (const s of characters) {
  const parts = [...s.normalize('NFD')];
  if (parts.length === 2 && differs(...parts)) pairs.add(parts.join(''));
  // Thai and Lao spell one vowel in two ways.
  const spelled = [...s.normalize('NFKD')];
  const sameAs = (text) => variant.compare(text, s) === 0;
  if (spelled.length === 2 && sameAs(spelled.join('')) && !sameAs(spelled.join(JOINER))) pairs.add(spelled.join(''));
}
const marked = single.filter((s) => /\p{M}/u.test(s) && shared.test(s));
for (let script = 0; scripts[script] !== 'Han'; script++) {
  const own = single.filter((s) => scriptOf(s) === script);
  // Behind a combining mark it is only the order of marks that a joiner changes.
  const first = own.filter((s) => !/\p{Mn}/u.test(s));
  for (const x of first) for (const y of [...own, ...marked, '·']) if (differs(x, y)) pairs.add(x + y);
}

const units = [...single, ...pairs];
const ignorable = units.filter(weightless);
const ignored = ignorable.filter((s) => variant.compare(s, '') === 0);
const marks = ignorable.filter((s) => variant.compare(s, '') !== 0).sort(variant.compare);

// The letters: each has a place of its own.
const letters = [];
const stands = new Map();
const rest = [];
for (const s of units.filter((each) => !weightless(each)).sort(variant.compare)) {
  const before = letters.at(-1);
  if (before === undefined || base.compare(before + LAST, s) < 0) letters.push(s);
  else rest.push(s);
}
function sequence(s) {
  const found = [];
  for (let text = ''; found.length < 20; ) {
    let [low, high] = [0, letters.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (base.compare(text + letters[middle], s) <= 0) low = middle + 1;
      else high = middle;
    }
    if (low === 0) return null;
    found.push(letters[low - 1]);
    text = found.join(JOINER);
    if (base.compare(text, s) === 0) return found;
  }
  return null;
}

// What is written otherwise: as which letters, with which mark behind the first of them, in which rank among its like.
const markGroups = [];
for (const mark of marks) {
  const group = markGroups.at(-1);
  if (group && accent.compare(group[0], mark) === 0) group.push(mark);
  else markGroups.push([mark]);
}
const like = new Map();
for (const letter of letters) like.set(letter, new Map([['', [letter]]]));
const unknown = [];
const same = [];
for (const s of rest) {
  const found = sequence(s);
  const compatible = s.normalize('NFKD');
  if (compatible !== s.normalize('NFD') && variant.compare(compatible, s) === 0) {
    same.push(`${hex(s)}=${hex(compatible)}`);
    continue;
  }
  // What stands for several letters by compatibility alone (`Ⅲ`, `⑴`) has a case for each of them: not followed here.
  if (found === null || (found.length > 1 && s > '\u00ff' && compatible !== s.normalize('NFD'))) {
    unknown.push(s);
    continue;
  }
  const [head, tail] = [found[0], found.slice(1)];
  const plain = found.join(JOINER);
  const withMark = (mark) => [head + mark, ...tail].join(JOINER);
  let kind = '';
  if (accent.compare(plain, s) !== 0) {
    const group = markGroups.find(([mark]) => accent.compare(withMark(mark), s) === 0);
    kind = group ? group[0] : 'own';
  }
  if (kind !== '' && kind !== 'own' && compatible !== s.normalize('NFD')) {
    unknown.push(s);
    continue;
  }
  const key = found.join('\0');
  if (!like.has(key)) like.set(key, new Map());
  const kinds = like.get(key);
  if (!kinds.has(kind)) kinds.set(kind, []);
  kinds.get(kind).push(s);
}

function ranges(list) {
  const runs = [];
  for (const s of list) {
    const run = runs.at(-1);
    const code = s.codePointAt(0);
    if (run && [...s].length === 1 && run.single && code === run.last + 1) run.last = code;
    else runs.push({ text: hex(s), single: [...s].length === 1, first: code, last: code });
  }
  return runs.map((run) => (run.last > run.first ? `${run.text}-${run.last.toString(16)}` : run.text));
}
// `a<b=c`: b and c are of one weight, behind a.
function ranked(list, order) {
  return list.map((s, i) => (i === 0 ? '' : order.compare(list[i - 1], s) === 0 ? '=' : '<') + hex(s)).join('');
}
const others = [];
for (const [key, kinds] of like) {
  const [head, ...tail] = key.split('\0');
  const heads = like.get(head)?.get('') ?? [head];
  for (const [kind, list] of kinds) {
    // What is the very same as a letter with a mark is written so.
    const spelled = (s) => heads.find((h) => variant.compare([h + kind, ...tail].join(JOINER), s) === 0);
    const alone = kind === '' && tail.length === 0;
    const aliases = alone || kind === 'own' ? [] : list.filter(spelled);
    for (const s of aliases) same.push(`${hex(s)}=${hex([spelled(s) + kind, ...tail].join(''))}`);
    const left = list.filter((s) => !aliases.includes(s));
    if (left.length === 0 || (alone && left.length === 1)) continue;
    // Those with a weight of their own at the level of accents are ranked there first, and then by case.
    const groups = [];
    for (const s of left) {
      if (kind === 'own' && groups.length && accent.compare(groups.at(-1)[0], s) !== 0) groups.push([s]);
      else if (groups.length) groups.at(-1).push(s);
      else groups.push([s]);
    }
    groups.forEach((group, i) => {
      const what = kind === 'own' ? String(i + 1) : kind === '' ? '' : `m${hex(kind)}`;
      const above = alone || kind === 'own' ? '' : '<';
      others.push(`${key.split('\0').map(hex).join(' ')}|${what}|${above}${ranked(group, variant)}`);
    });
  }
}
const wrapped = (list) => {
  const lines = [''];
  for (const item of list) {
    if (lines.at(-1).length + item.length > 110) lines.push('');
    lines.push(`${lines.pop()} ${item}`.trimStart());
  }
  return lines;
};
const table = {
  source: `Intl.Collator('en') of ICU ${process.versions.icu}, Unicode ${process.versions.unicode}`,
  ignored: wrapped(ranges(ignored)),
  marks: wrapped(markGroups.map((group) => ranked(group, variant))),
  letters: wrapped(ranges(letters)),
  same: wrapped(same),
  others,
};
process.stdout.write(`${JSON.stringify(table, null, 1)}\n`);
process.stderr.write(`${letters.length} letters, ${pairs.size} pairs, ${others.length} others, ${unknown.length} left out: ${unknown.join(' ')}\n`);
