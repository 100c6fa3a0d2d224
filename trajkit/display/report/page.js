// The report's list of tasks, and what page.js and tree.js (one script in the end) share. Data lie packed in
// <script type="application/gzip;base64"> blocks and are unpacked when they are asked for. Text of trajectories only ever
// becomes text nodes and attributes of elements made here: no HTML is written (no innerHTML, no document.write).
'use strict';

const ROLES = ['expert', 'policy', 'scorer', 'system', 'user', 'assistant', 'tool'];
const SOLVERS = [
  ['policy', '●', 'policy from s₀'], ['expert', '◆', 'expert'], ['branch', '▲', 'only a branch'],
  ['unsolved', '×', 'unsolved'], ['none', '?', 'no outcome'],
];
const SORTS = {
  order: ['order of the runs', null], id: ['task', 'id'], trajectories: ['most trajectories', 'trajectories'],
  solved: ['most solved', 'solved'], expert: ["expert's best", 'expert'], policy: ["policy's best", 'policy'],
  recovery: ['recovery states', 'recovery'], examples: ['most chosen', 'examples'],
};
const PAGE = 50;
const $ = id => document.getElementById(id);

// ---- making elements

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (typeof value === 'function') element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, '');
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat(2).filter(child => child || child === 0));
  return element;
}
const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const s = (tag, attributes, ...children) =>
  fill(document.createElementNS('http://www.w3.org/2000/svg', tag), attributes, children);
const many = (n, word) => `${n.toLocaleString('en')} ${word}${n === 1 ? '' : 's'}`;
const number = value => value === null ? '–' : typeof value === 'string' ? value : String(Math.round(value * 1000) / 1000);
const outcome = solved => solved === null ? 'none' : solved ? 'solved' : 'failed';
const said = solved => solved === null ? 'no outcome' : outcome(solved);

function command(text) {
  return h('div', {class: 'command'}, h('code', {}, text), h('button', {type: 'button', click: copy}, 'Copy'));
}
async function copy(event) {
  const button = event.currentTarget, code = button.parentNode.querySelector('code');
  try {
    await navigator.clipboard.writeText(code.textContent);
    button.textContent = 'Copied';
  } catch { // not allowed from here: leave it selected
    getSelection().selectAllChildren(code);
  }
}

// ---- unpacking

async function unpack(id) {
  const packed = atob($(id).textContent), bytes = new Uint8Array(packed.length);
  for (let i = 0; i < packed.length; i++) bytes[i] = packed.charCodeAt(i);
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'))).json();
}
let index, columns, chunk = {number: -1}; // the chunk of the open task

async function chunkOf(n) { // the chunk that holds the task with number n
  const after = index.starts.findIndex(start => start > n), number = (after < 0 ? index.starts.length : after) - 1;
  return chunk.number === number ? chunk : Object.assign(await unpack('chunk-' + number), {number});
}
const text = i => i === undefined || i === null ? null : Array.isArray(chunk.texts[i]) ? chunk.texts[i][0] : chunk.texts[i];
const length = i => Array.isArray(chunk.texts[i]) ? chunk.texts[i][1] : null; // of a text that is cut

// ---- the list

const EMPTY = {q: '', solver: '', split: '', iteration: '', recovery: '', sort: 'order', page: '0'};
let asked = {...EMPTY}, found = [], haystack = null;

function find() {
  haystack ||= columns.id.map((id, i) => `${id}\n${columns.text[i]}`.toLowerCase());
  const words = asked.q.toLowerCase().split(/\s+/).filter(Boolean);
  const solvers = index.solvers[asked.iteration || 'all'] || index.solvers.all;
  const counts = SOLVERS.map(() => 0);
  found = [];
  for (let i = 0; i < columns.id.length; i++) {
    const recovery = asked.iteration ? columns.recovery[i].includes(+asked.iteration) : columns.recovery[i].length;
    if (solvers[i] < 0 || (asked.split && columns.split[i] !== asked.split) || (asked.recovery && !recovery)) continue;
    if (!words.every(word => haystack[i].includes(word))) continue;
    counts[solvers[i]]++;
    if (asked.solver === '' || SOLVERS[solvers[i]][0] === asked.solver) found.push(i);
  }
  const by = columns[(SORTS[asked.sort] || SORTS.order)[1]];
  const value = i => Array.isArray(by[i]) ? by[i].length : by[i] === null ? -Infinity : +by[i];
  const compare = new Intl.Collator('en', {numeric: true}).compare;
  if (by === columns.id) found.sort((a, b) => compare(by[a], by[b]) || a - b);
  else if (by) found.sort((a, b) => value(b) - value(a) || a - b);
  return {counts, solvers};
}

function showList() {
  const {counts, solvers} = find();
  const pages = Math.max(1, Math.ceil(found.length / PAGE)), page = Math.min(pages - 1, Math.max(0, +asked.page || 0));
  const sum = counts.reduce((a, b) => a + b, 0);
  $('solvers').querySelectorAll('b').forEach((count, i) => {
    count.textContent = (i ? counts[i - 1] : sum).toLocaleString('en');
  });
  $('count').textContent = `${many(found.length, 'task')} of ${columns.id.length.toLocaleString('en')}`;
  $('rows').replaceChildren(...found.slice(page * PAGE, (page + 1) * PAGE).map(i => {
    const [name, sign, label] = SOLVERS[solvers[i]];
    const cell = (value, kind) => h('td', {class: kind}, value);
    return h('tr', {},
      h('td', {}, h('a', {href: hash({task: columns.id[i]})}, columns.id[i]), h('span', {}, columns.text[i])),
      cell(h('span', {class: 'mark ' + name}, `${sign} ${label}`)), cell(columns.split[i]),
      cell(`${columns.solved[i]} / ${columns.trajectories[i]}`, 'number'), cell(number(columns.expert[i]), 'number'),
      cell(number(columns.policy[i]), 'number'),
      cell(columns.recovery[i].length ? h('span', {class: 'recovery'}, '⚑ ' + columns.recovery[i].join(', ')) : ''),
      cell(columns.examples[i] || '–', 'number'));
  }));
  $('page').textContent = `page ${page + 1} of ${pages}`;
  $('before').disabled = page === 0;
  $('after').disabled = page === pages - 1;
  $('pager').hidden = pages === 1;
}

const kept = () => Object.fromEntries(Object.entries(asked).filter(([name, value]) => value !== EMPTY[name]));

function ask(changes) { // a filter has changed: the address keeps it, so that "back" finds it again
  asked = {...asked, page: '0', ...changes};
  history.replaceState(null, '', hash({list: '', ...kept()}));
  showList();
}

function startList() {
  const option = (value, label) => h('option', {value}, label);
  const chips = [['', '', 'all'], ...SOLVERS].map(([value, sign, label], i) => h('label', {class: 'chip'},
    h('input', {type: 'radio', name: 'solver', value, checked: i === 0, change: () => ask({solver: value})}),
    h('span', {}, h('span', {class: value, 'aria-hidden': 'true'}, sign), ` ${label}`, h('b'))));
  $('solvers').append(...chips);
  $('split').append(option('', 'all'), ...[...new Set(columns.split)].map(split => option(split, split)));
  $('iteration').append(option('', 'all'), ...index.iterations.map(i => option(i, i)));
  $('sort').append(...Object.entries(SORTS).map(([name, [label]]) => option(name, label)));
  for (const name of ['split', 'iteration', 'sort']) $(name).addEventListener('change', () => ask({[name]: $(name).value}));
  $('recovery').addEventListener('change', () => ask({recovery: $('recovery').checked ? '1' : ''}));
  let waiting;
  $('search').addEventListener('input', () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => $('list').hidden || ask({q: $('search').value}), 80);
  });
  $('filters').addEventListener('submit', event => event.preventDefault());
  $('before').addEventListener('click', () => ask({page: String(+asked.page - 1)}));
  $('after').addEventListener('click', () => ask({page: String(+asked.page + 1)}));
}

function fillFilters() {
  for (const name of ['split', 'iteration', 'sort']) {
    $(name).value = asked[name];
    asked[name] = $(name).value; // what is no choice is none
  }
  $('search').value = asked.q;
  $('recovery').checked = Boolean(asked.recovery);
  for (const input of $('solvers').querySelectorAll('input')) input.checked = input.value === asked.solver;
}

// ---- the address: #task=...&node=..., or #list=&q=...

const hash = parts => '#' + Object.entries(parts).map(([name, value]) => `${name}=${encodeURIComponent(value)}`).join('&');
function address() {
  const parts = {};
  for (const part of location.hash.slice(1).split('&')) {
    const [name, value = ''] = part.split('=');
    try { parts[name] = decodeURIComponent(value); } catch { parts[name] = value; }
  }
  return parts;
}
let scrolled = 0; // how far down the list was when a task was opened
async function route() {
  const parts = address(), opens = parts.task !== undefined, was = !$('task').hidden;
  if (opens && !was) scrolled = scrollY;
  document.body.classList.toggle('reads', opens);
  for (const [name, hidden] of [['overview', opens], ['list', opens], ['task', !opens]]) $(name).hidden = hidden;
  if (opens) {
    const before = view && view.task.id;
    await showTask(parts.task, parts.node);
    if (!was || before !== parts.task) {
      scrollTo({top: 0, behavior: 'instant'});
      const title = $('task-title');
      if (title) title.focus({preventScroll: true});
    }
  } else {
    const lists = parts.list !== undefined;
    if (lists) {
      asked = Object.fromEntries(Object.entries(EMPTY).map(([name, none]) => [name, parts[name] ?? none]));
      fillFilters();
    } // else they stay: they may be ahead of the address while the reader types
    showList();
    const name = lists ? 'tasks' : location.hash.slice(1);
    const part = ['runs', 'charts', 'tasks'].includes(name) && $(name);
    if (was && scrolled && (!part || lists)) scrollTo({top: scrolled, behavior: 'instant'});
    else if (part && (was || !document.documentElement.dataset.ready)) part.scrollIntoView({behavior: 'instant'});
  }
}

async function start() {
  for (const button of document.querySelectorAll('.command button')) {
    button.hidden = false;
    button.addEventListener('click', copy);
  }
  if (!('DecompressionStream' in window)) {
    $('notice').textContent = 'This browser is too old to unpack the tasks (it has no DecompressionStream). '
      + 'The charts above are complete; a browser of 2023 or later shows the tasks.';
    $('notice').hidden = false;
    return;
  }
  index = await unpack('index');
  columns = index.columns;
  startList();
  fillFilters(); // a browser may have kept what they were before a reload
  $('browser').hidden = false;
  $('left-out').append(...index.left_out.map(told => h('p', {}, told[0].toUpperCase() + told.slice(1) + '.')));
  addEventListener('hashchange', route);
  let width = innerWidth, waiting;
  addEventListener('resize', () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => { if (view && width !== (width = innerWidth)) drawTree(); }, 100);
  });
  await route();
  document.documentElement.dataset.ready = '1';
}
addEventListener('DOMContentLoaded', start);
