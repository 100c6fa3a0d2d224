// An open task of the report: its trajectories as a tree (EEF, Fig. 1), and the messages at the state that is read.
'use strict';

// ---- its trajectories

let view = null; // what is shown of the open task

function readTask(task) {
  const all = task.t.map(([id, role, actor, iteration, sample, parent, branch, n, reward, solved, ended, error], i) => ({
    i, id, role: ROLES[role], actor: text(actor), iteration, sample, parent, branch, end: branch + n, reward, solved,
    ended: text(ended), error: text(error), messages: task.m && task.m[i],
  }));
  for (const t of all) { // attached to the one that owns the action before the state it starts from
    t.from = t.branch > 0 && t.parent !== null && t.parent >= 0 ? all[t.parent] : null;
    t.lost = t.branch > 0 && !t.from;
    for (let climbs = 0; t.from && t.from.branch >= t.branch && climbs < all.length; climbs++) {
      const up = t.from.parent;
      t.from = t.from.branch > 0 && up !== null && up >= 0 ? all[up] : null;
    }
  }
  return all;
}

function owners(t) { // who took each action on the path of t; undefined where the parent is not there
  const found = [];
  for (let own = t, end = t.end, climbs = 0; own && climbs < view.all.length + 1; climbs++) {
    for (let k = own.branch; k < end; k++) found[k] = own;
    end = Math.min(end, own.branch);
    own = own.from;
  }
  return found;
}
const key = (t, k) => t.i + '.' + k;

function readAnswers(task) { // what the methods chose: `marks` says of every action in what it takes part
  return task.answers.map(([method, t, kind, side, expert, from, end, row, values]) => {
    const name = `${index.methods[method].name}${kind === 'values' ? '' : ', ' + kind}`;
    const whose = view.all[t];
    return {
      name, kind, side, whose, from, expert, row, end: Math.min(end ?? whose.end, whose.end), values: new Map(values || []),
      label: `${name}: ${side === 'trained' ? '' : side + ' '}${whose.role} ${whose.id.slice(0, 8)} from s_${from}`,
    };
  });
}
function mark() {
  view.marks = new Map();
  view.answers.forEach((answer, i) => {
    if (view.answer !== '' && +view.answer !== i) return;
    owners(answer.whose).forEach((own, k) => {
      if (k >= answer.end) return;
      if (!view.marks.has(key(own, k))) view.marks.set(key(own, k), []);
      view.marks.get(key(own, k)).push({answer, trained: k >= answer.from && (!answer.values.size || answer.values.has(k))});
    });
  });
}
function markOf(t, k) {
  const marks = (view.marks.get(key(t, k)) || []).filter(m => m.trained);
  if (marks.some(m => m.answer.side === 'trained' || m.answer.side === 'chosen')) return 'chosen';
  return marks.some(m => m.answer.side === 'rejected') ? 'rejected' : '';
}

function arrange() { // the lanes: a trajectory, below it what branches from it, from late states to early ones
  const {all, expert, iteration} = view;
  const kept = new Set(view.answers.flatMap(answer => [answer.whose, ...owners(answer.whose)]));
  const shown = t => t.role !== 'expert' && (t.role !== 'scorer' || view.scorer)
    && (iteration === '' || t.iteration === +iteration || kept.has(t) || t === (view.at && view.at.t));
  const lanes = [], root = expert || {i: -1, branch: 0, end: 0, solved: null, role: 'start', virtual: true};
  const place = (t, depth) => {
    if (lanes.some(lane => lane.t === t)) return; // parents in a cycle
    lanes.push({t, depth});
    all.filter(child => child !== t && shown(child) && (child.from === t || (t === root && !child.from)))
      .sort((a, b) => b.branch - a.branch || a.iteration - b.iteration || a.i - b.i)
      .forEach(child => place(child, depth + 1));
  };
  if (expert && expert.from) owners(expert).forEach(own => lanes.some(lane => lane.t === own) || place(own, 0));
  place(root, 0);
  view.root = root;
  return lanes;
}

function action(t, k) { // what is done at step k, in short
  const message = (t.messages || []).find(m => m[0] === k && m[1] === 5 && !(m[3] && m[3].context));
  if (!message) return '';
  if (message[3] && message[3].calls !== undefined) {
    const calls = text(message[3].calls);
    try {
      return JSON.parse(calls).map(call => `${call.function.name}(${call.function.arguments || ''})`).join('; ');
    } catch { return calls; }
  }
  const told = (text(message[2]) || '').trim();
  return told.includes('Action:') ? told.slice(told.lastIndexOf('Action:') + 7).trim() : told;
}
const shorten = (told, n) => told.length > n ? told.slice(0, Math.max(1, n - 1)) + '…' : told;

function simulated(t, k) { // how the policy's rollouts from a state went: the rule branch_points
  const wanted = view.iteration === '' ? index.iteration : +view.iteration;
  return view.task.points.find(([expert, step, iteration]) => expert === t.i && step === k && iteration === wanted);
}
function recovery(t, k) {
  const wanted = view.iteration === '' ? index.iteration : +view.iteration;
  return view.task.recovery.find(([expert, iteration, step]) => expert === t.i && step === k && iteration === wanted);
}

const SHAPES = {
  solved: () => [s('circle', {class: 'shape solved', r: 8}), s('path', {class: 'sign', d: 'M-3.5 0.3 L-1 3 L4 -2.8'})],
  failed: () => [
    s('rect', {class: 'shape failed', x: -7.5, y: -7.5, width: 15, height: 15, rx: 2}),
    s('path', {class: 'sign', d: 'M-3 -3 L3 3 M3 -3 L-3 3'})],
  none: () => [s('path', {class: 'shape none', d: 'M0 -9 L9 0 L0 9 L-9 0 Z'}), label('?', 0, 4)],
};
const label = (told, x, y, kind) => s('text', {class: kind, x, y, 'text-anchor': 'middle'}, told);

function drawTree() {
  const lanes = arrange(), last = Math.max(1, ...lanes.map(lane => lane.t.end));
  const width = $('tree').clientWidth || 800, left = 34, top = 58, high = 36;
  const right = 34 + 5.8 * Math.max(...lanes.map(({t}) => t.virtual ? 0 : ending(t).length));
  const column = Math.min(136, Math.max(width < 600 ? 64 : 42, (width - left - right) / last));
  const place = {column, x: k => left + k * column, y: lane => top + lane * high + (lane > 0 ? 16 : 0)};
  const layers = {halo: s('g'), edge: s('g', {'aria-hidden': 'true'}), bold: s('g', {'aria-hidden': 'true'}), item: s('g')};
  const laneOf = new Map(lanes.map(({t}, lane) => [t, lane]));
  view.items = new Map();
  view.lanes = lanes;
  view.path = view.at ? owners(view.at.t) : [];
  lanes.forEach(({t, depth}, lane) => {
    const parent = laneOf.get(t.from) || laneOf.get(view.root) || 0;
    for (let k = t.branch; k <= t.end; k++) drawStep(t, k, depth, lane, parent, place, layers);
  });
  const size = {width: Math.ceil(place.x(last) + right), height: place.y(lanes.length - 1) + 30};
  $('tree').replaceChildren(s('svg', {...size, role: 'tree', 'aria-label': 'Branch tree'}, Object.values(layers)));
  focusable();
}

// State k of t and the action after it, as one thing to click and to go to. The state a branch starts from is its
// parent's: of a branch the first thing is the action, whose line comes down from the parent's lane.
function drawStep(t, k, depth, lane, parent, {column, x, y}, layers) {
  const main = depth === 0, starts = k === t.branch && !main, ends = k === t.end, kind = markOf(t, k);
  const point = main && simulated(t, k), rescue = main && recovery(t, k), told = spoken(t, k, kind, point, rescue);
  const on = view.path[k] === t || (ends && view.at && view.at.t === t);
  const item = s('g', {
    class: 'item', role: 'treeitem', tabindex: -1, 'aria-level': depth + 1, 'aria-label': told,
    click: () => go(t, k), keydown: event => steer(event, t, k),
  }, s('title', {}, told));
  if (!ends || starts) {
    const to = ends ? x(k) + 24 : x(k + 1);
    const down = `M${x(k)} ${y(parent)} V${y(lane) - 10} Q${x(k)} ${y(lane)} ${x(k) + 10} ${y(lane)}`;
    const d = `${starts ? down : `M${x(k)} ${y(lane)}`} H${to}`;
    if (on) layers.halo.append(s('path', {class: 'halo', d}));
    (kind ? layers.bold : layers.edge).append(s('path', {class: `edge ${kind} ${on && !kind ? 'on-path' : ''}`, d}));
    item.append(s('path', {class: 'hit', d}));
  }
  const at = starts ? x(k) + (ends ? 24 : column / 2) : x(k);
  const node = s('g', {transform: `translate(${at} ${y(lane)})`});
  const shape = ends && !t.virtual ? outcome(t.solved) : point ? outcome(point[6]) : '';
  if (rescue) node.append(s('circle', {class: 'ring', r: 13}), label('⚑ recovery', 0, -36, 'flag'));
  if (!starts || ends) node.append(...(shape ? SHAPES[shape]() : [s('circle', {class: 'state', r: main ? 6 : 3.5})]));
  node.append(s('circle', {class: 'cursor', r: starts && !ends ? 7 : 11.5}));
  if (main) node.append(label(`s_${k}`, 0, -20, 'faint'));
  if (point && point[3] > 1) node.append(s('text', {class: 'faint', x: 6, y: 22}, `${point[4]}/${point[3]}`));
  if (ends && !t.virtual) node.append(s('text', {x: 16, y: 4}, ending(t)));
  item.append(node);
  if (!ends && column >= 76) {
    const room = Math.floor((column - (main ? 32 : 22)) / 6);
    item.append(label(shorten(action(t, k), room), x(k) + column / 2 + (starts ? 4 : 0), y(lane) - 7, `action ${kind}`));
  }
  view.items.set(key(t, k), item);
  layers.item.append(item);
}

function ending(t) {
  const how = t.ended && t.ended !== 'done' ? ` (${t.ended.replace('_', ' ')})` : '';
  const reward = t.reward === null ? '' : `, reward ${number(t.reward)}`;
  const told = `${t.role === 'scorer' ? 'scorer: ' : ''}${said(t.solved)}${how}${reward}`;
  if (t.role === 'expert') return told;
  const actor = view.actors > 1 && t.actor ? ` · ${shorten(t.actor, 16)}` : '';
  return told + (view.single ? '' : ` · it ${t.iteration}`) + actor;
}
function spoken(t, k, kind, point, rescue) {
  const parts = [t.virtual ? 'initial state' : t.role, `s_${k}`];
  if (k < t.end) parts.push(shorten(action(t, k), 120));
  else if (!t.virtual) parts.push(ending(t));
  if (kind) parts.push(kind === 'chosen' ? 'trained' : 'rejected');
  if (point) parts.push(`policy from here: ${said(point[6])} (${point[4]} of ${point[3]} solved)`);
  if (rescue) parts.push('first recovery state');
  return parts.filter(Boolean).join(', ');
}

// ---- going about in the tree

function ownerAt(t, k) { // on whose lane state k of t's path is drawn
  return k >= t.branch ? t : owners(t)[k] || t;
}
function focusable() { // one item is in the order of tabs: the one that is read, else the first
  const current = view.at && view.items.get(key(ownerAt(view.at.t, view.at.k), view.at.k));
  for (const item of view.items.values()) {
    const here = item === current;
    item.classList.toggle('selected', here);
    item.setAttribute('aria-selected', here);
    item.setAttribute('tabindex', here || (!current && item === view.items.values().next().value) ? 0 : -1);
  }
  return current;
}
function go(t, k, quietly = false) { // quietly: no entry of its own in the history
  if (t.virtual) return;
  const address = hash({task: view.task.id, node: `${t.id}@${k}`});
  if (quietly) history.replaceState(null, '', address);
  else if (location.hash !== address) history.pushState(null, '', address);
  select(t, k);
}
function select(t, k) {
  view.at = {t, k};
  drawTree();
  showPanel();
  const item = focusable();
  if (item) {
    const box = $('tree').getBoundingClientRect(), at = item.querySelector('.cursor').getBoundingClientRect();
    if (at.left < box.left + 20) $('tree').scrollLeft -= box.left + 60 - at.left;
    if (at.right > box.right - 20) $('tree').scrollLeft += at.right - box.right + 60;
    if (at.top < box.top + 20) $('tree').scrollTop -= box.top + 60 - at.top;
    if (at.bottom > box.bottom - 20) $('tree').scrollTop += at.bottom - box.bottom + 60;
  }
}
function along(by) {
  const {t, k} = view.at;
  if (k + by >= 0 && k + by <= t.end) go(t, k + by, true);
}
function steer(event, t, k) {
  const lane = view.lanes.findIndex(other => other.t === t);
  const reads = view.at && ownerAt(view.at.t, view.at.k) === t && view.at.k === k ? view.at.t : t;
  const other = step => {
    const to = (view.lanes[lane + step] || {}).t;
    return to && !to.virtual && [to, Math.min(to.end, Math.max(to.branch, k))];
  };
  const moves = {
    ArrowRight: () => k < reads.end && [reads, k + 1], ArrowLeft: () => k > 0 && [reads, k - 1],
    ArrowDown: () => other(1), ArrowUp: () => other(-1),
    Home: () => [reads, 0], End: () => [reads, reads.end], Enter: () => [reads, k], ' ': () => [reads, k],
  };
  const move = !event.ctrlKey && !event.altKey && !event.metaKey && moves[event.key];
  if (!move) return;
  event.preventDefault();
  const to = move();
  if (!to) return;
  go(...to, event.key.startsWith('Arrow') && Boolean(view.at));
  if (event.key === 'Enter' || event.key === ' ') $('panel-title').focus();
  else (focusable() || document.body).focus({preventScroll: true});
}

// ---- reading

function showPanel() {
  const {t, k} = view.at, own = ownerAt(t, k), fact = (...told) => h('p', {class: 'facts'}, told);
  const link = (to, told) => h('a', {href: hash({task: view.task.id, node: `${to.id}@${k}`})}, told);
  const step = (id, by, told) => h('button', {
    type: 'button', id, disabled: k + by < 0 || k + by > t.end, click: () => along(by), title: 'an arrow key in the tree',
  }, told);
  const who = t.role + (t.actor ? ` ${t.actor}` : '') + (t.role === 'expert' ? '' : `, iteration ${t.iteration}`);
  const parts = [
    h('h3', {id: 'panel-title', tabindex: -1}, `s_${k}${k < t.end ? '' : ', the end'} · ${who}`),
    h('div', {class: 'along'}, step('step-back', -1, k > 0 ? `← s_${k - 1}` : '←'),
      h('span', {}, `${k} of ${many(t.end, 'action')}`), step('step-on', 1, k < t.end ? `s_${k + 1} →` : '→')),
    fact(h('span', {class: outcome(t.solved)}, ending(t)), `. Trajectory ${t.id}`,
      t.lost ? `, a branch from s_${t.branch} of a trajectory that is not in these runs`
        : t.branch ? `, a branch from s_${t.branch} of ${view.all[t.parent].id}` : '',
      t.error ? `. Error: ${t.error}` : ''),
  ];
  const point = simulated(own, k), rescue = recovery(own, k);
  if (point) {
    const [, , iteration, rollouts, solved, without, verdict] = point;
    parts.push(fact(`Policy from here, iteration ${iteration}: `, h('b', {class: outcome(verdict)}, said(verdict)),
      ` (${solved} of ${rollouts} solved${without ? `, ${without} without outcome` : ''}).`));
  }
  if (rescue) {
    const told = `⚑ First recovery state: the policy solves the task from s_${rescue[3]}, and no more from s_${k}.`;
    parts.push(h('p', {class: 'facts recovery'}, told));
  }
  const leaves = b => b !== own && b.branch === k && (b.from === own || (k === 0 && !b.from && own.branch === 0));
  const branches = view.lanes.map(lane => lane.t).filter(b => !b.virtual && leaves(b));
  const links = branches.map(b => link(b, `${b.role} ${b.id.slice(0, 6)} ${ending(b)}`));
  if (links.length) parts.push(fact('From here: ', links));
  if (own !== t) parts.push(fact(`This step is the ${own.role}'s: the branch starts later.`));
  const messages = (own.messages || []).filter(m => m[0] === k).map(m => message(m, own));
  parts.push(...messages.map(([element]) => element));
  if (own.messages && !messages.length) parts.push(fact('Nothing is said here.'));
  if (!own.messages) {
    parts.push(h('p', {class: 'notice'}, 'The messages are left out: this file would have grown too large.'));
  }
  if (!own.messages || messages.some(([, cut]) => cut)) {
    parts.push(command(`trajkit show ${quote(own.id)} --runs ${index.runs} --full`));
  }
  $('panel').replaceChildren(...parts);
  $('panel').scrollTop = 0;
}

function message([step, role, content, more = {}], own) { // the element, and whether a text of it is cut
  const acts = role === 5 && !more.context, marks = acts ? view.marks.get(key(own, step)) || [] : [];
  const badges = marks.map(({answer, trained}) => {
    const value = answer.values.get(step), side = answer.side === 'rejected' ? 'failed' : 'chosen';
    if (value !== undefined) return `step reward ${number(value)} (${answer.name})`;
    return trained ? h('span', {class: side}, `${answer.side} (${answer.name})`) : `context (${answer.name})`;
  });
  if (acts && view.answers.length && !marks.length) badges.push('in nothing chosen');
  const part = markOf(own, step), kind = acts ? `action-message ${part === 'chosen' ? 'trained' : part}` : '';
  const about = [
    more.name === undefined ? '' : text(more.name), more.call_id === undefined ? '' : `answers ${text(more.call_id)}`,
    more.context ? 'no action, only context' : '', ...badges,
  ].filter(Boolean);
  const told = i => [h('pre', {class: 'text'}, text(i)), length(i) && h('p', {class: 'note'},
    `… ${text(i).length.toLocaleString('en')} of ${length(i).toLocaleString('en')} characters`)];
  const folded = (name, i) => i !== undefined && h('details', {open: true}, h('summary', {}, name), told(i));
  const element = h('article', {class: `message ${kind}`},
    h('header', {}, h('b', {}, ROLES[role] + (acts ? ` · a_${step}` : '')), about.map(badge => h('span', {}, badge))),
    folded('reasoning', more.reasoning), content !== null && text(content) !== '' && told(content),
    folded('tool calls', more.calls));
  return [element, [content, more.reasoning, more.calls].some(i => i !== undefined && length(i))];
}
const quote = id => /^[\w.@:-]+$/.test(id) ? id : "'" + id.replaceAll("'", "'\\''") + "'";

// ---- opening a task

async function showTask(id, node) {
  const n = columns.id.indexOf(id);
  if (n < 0) {
    view = null;
    const title = h('h2', {id: 'task-title', tabindex: -1}, 'There is no such task');
    $('task').replaceChildren(h('p', {class: 'crumbs'}, backLink()), title, h('p', {}, id));
    return;
  }
  if (!view || view.task.id !== id) {
    const loaded = await chunkOf(n);
    if (address().task !== id) return; // another one was asked for meanwhile
    chunk = loaded;
    startTask(n);
  }
  const at = (node || '').lastIndexOf('@'), named = at > 0 && view.all.find(other => other.id === node.slice(0, at));
  const t = named || view.expert || view.all[0];
  showExpert(owners(t)[0] || t);
  select(t, named ? Math.min(t.end, Math.max(0, +node.slice(at + 1) || 0)) : 0);
}
function showExpert(root) {
  if (!root || root.role !== 'expert') return;
  view.expert = root;
  $('expert').value = root.i;
}
const backLink = () => h('a', {href: hash({list: '', ...kept()})}, '← All tasks');

function startTask(n) {
  const task = chunk.tasks[n - index.starts[chunk.number]];
  if (!found.length) find();
  view = {task, all: readTask(task), answer: '', at: null, scorer: true, marks: new Map()};
  view.answers = readAnswers(task);
  mark();
  const {all} = view, experts = all.filter(t => t.role === 'expert');
  const iterations = [...new Set(all.filter(t => t.role !== 'expert').map(t => t.iteration))].sort((a, b) => a - b);
  view.single = iterations.length < 2;
  view.actors = new Set(all.filter(t => t.role === 'policy').map(t => t.actor)).size;
  view.iteration = !view.single && iterations.includes(index.iteration) ? String(index.iteration) : '';
  const used = view.answers.flatMap(a => [all[a.expert], ...owners(a.whose)]).find(t => t && t.role === 'expert');
  view.expert = used || experts[0] || null;
  const options = pairs => pairs.map(([value, told]) => h('option', {value}, told));
  const choice = (id, told, pairs, change) => h('label', {hidden: pairs.length < 2}, `${told} `,
    h('select', {id, change: () => { change($(id)); drawTree(); showPanel(); }}, options(pairs)));
  const place = found.indexOf(n);
  const neighbour = (step, told) => place >= 0 && found[place + step] !== undefined
    && h('a', {href: hash({task: columns.id[found[place + step]]})}, told);
  const [solver, sign, solved] = SOLVERS[index.solvers.all[n]];
  const scorer = h('input', {type: 'checkbox', checked: true, change: () => { view.scorer = scorer.checked; drawTree(); }});
  $('task').replaceChildren(
    h('p', {class: 'crumbs'}, backLink(), h('span'), neighbour(-1, '‹ previous'), neighbour(1, 'next ›')),
    h('h2', {id: 'task-title', tabindex: -1}, task.id),
    h('p', {class: 'instruction'}, columns.text[n]),
    h('p', {class: 'note'}, columns.env[n] ? `${columns.env[n]}, ` : '', `split ${columns.split[n]}, `,
      `${columns.solved[n]} of ${all.length} ${all.length === 1 ? 'trajectory' : 'trajectories'} solved it: `,
      h('span', {class: solver}, `${sign} ${solved}`)),
    h('div', {id: 'controls', class: 'row'},
      choice('expert', 'Expert', experts.map(t => [t.i, `${t.actor || 'expert'} ${t.id.slice(0, 8)}, ${ending(t)}`]),
        list => showExpert(all[list.value])),
      choice('rollouts', 'Rollouts of iteration', view.single ? [] : [['', 'all'], ...iterations.map(i => [i, i])],
        list => { view.iteration = list.value; }),
      choice('answer', 'Chosen', [['', `everything (${view.answers.length})`], ...view.answers.map((a, i) => [i, a.label])],
        list => {
          view.answer = list.value;
          mark();
          if (view.answer) showExpert(owners(view.answers[view.answer].whose)[0]);
        }),
      h('label', {class: 'check', hidden: !all.some(t => t.role === 'scorer')}, scorer, "scorer's rollouts")),
    h('div', {class: 'reading'},
      h('div', {}, h('div', {id: 'tree'}), legend(),
        h('p', {class: 'note'}, 'Click a state or an action to read what is said there; arrow keys go on from it.')),
      h('section', {id: 'panel', 'aria-label': 'Messages'})));
  $('rollouts').value = view.iteration;
  if (view.expert) $('expert').value = view.expert.i;
}
function legend() {
  const sample = (...parts) => s('svg', {width: 24, height: 20, viewBox: '-12 -10 24 20', 'aria-hidden': 'true'}, ...parts);
  const edge = kind => sample(s('path', {class: 'edge ' + kind, d: 'M-11 0 H11'}));
  const entries = [
    [sample(...SHAPES.solved()), 'solved'], [sample(...SHAPES.failed()), 'failed'], [sample(...SHAPES.none()), 'no outcome'],
    [sample(s('circle', {class: 'state', r: 6})), 'not simulated from here'],
    [sample(s('circle', {class: 'ring', r: 8})), 'recovery state'], [edge('chosen'), 'trained'], [edge(''), 'not trained'],
  ];
  if (view.answers.some(answer => answer.side === 'rejected')) entries.push([edge('rejected'), 'rejected']);
  return h('ul', {id: 'legend'}, entries.map(([picture, label]) => h('li', {}, picture, label)));
}
