const find = (id) => document.getElementById(id);
const make = (tag, className = "", text = "") => {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
};

// ---- Markdown, as far as models write it

const INLINE = /(`+)(.+?)\1(?!`)|\*\*(.+?)\*\*|\*([^\s*][^*]*?)\*|\[([^\]]+)\]\((https?:\/\/[^\s)]+)\)/gs;

function addInline(parent, text) {
  let end = 0;
  for (const found of text.matchAll(INLINE)) {
    parent.append(text.slice(end, found.index));
    end = found.index + found[0].length;
    const [, , code, strong, em, label, address] = found;
    if (code !== undefined) parent.append(make("code", "", code));
    else if (address !== undefined) {
      const link = make("a", "", label);
      link.href = address;
      link.rel = "noopener noreferrer";
      link.target = "_blank";
      parent.append(link);
    } else {
      const part = make(strong !== undefined ? "strong" : "em");
      addInline(part, strong ?? em);
      parent.append(part);
    }
  }
  parent.append(text.slice(end));
}

function codeBlock(lines) {
  const block = make("div", "block");
  const pre = make("pre");
  pre.tabIndex = 0; // it scrolls, so keys must reach it
  pre.append(make("code", "", lines.join("\n")));
  const copy = make("button", "", "Copy");
  copy.type = "button";
  copy.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(lines.join("\n"));
      copy.textContent = "Copied";
    } catch { // not a secure page: select it, and a key copies
      getSelection().selectAllChildren(pre);
    }
  });
  block.append(pre, copy);
  return block;
}

function table(rows) {
  const made = make("table");
  rows.forEach((cells, number) => {
    const row = make("tr");
    for (const text of cells) {
      const cell = make(number ? "td" : "th");
      addInline(cell, text);
      row.append(cell);
    }
    made.append(row);
  });
  return made;
}

const isTable = (head, rule = "") =>
  head.includes("|") && rule.includes("|") && rule.includes("-") && /^[\s|:-]+$/.test(rule);
const cellsOf = (line) => line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());

function showMarkdown(parent, text) {
  const lines = text.split("\n");
  const parts = [];
  let place = 0;
  const take = (pattern) => {
    const taken = [];
    for (let found; place < lines.length && (found = lines[place].match(pattern)); place++)
      taken.push(found[1] ?? lines[place]);
    return taken;
  };
  const list = (tag, pattern) => {
    const made = make(tag);
    for (const item of take(pattern)) {
      const line = make("li");
      addInline(line, item);
      made.append(line);
    }
    return made;
  };
  while (place < lines.length) {
    const line = lines[place];
    const fence = line.match(/^\s*(```+|~~~+)/);
    const head = line.match(/^(#{1,6})\s+(.*)/);
    if (fence) {
      const inside = [];
      for (place++; place < lines.length && !lines[place].trim().startsWith(fence[1]); place++)
        inside.push(lines[place]);
      place++;
      parts.push(codeBlock(inside));
    } else if (head) {
      const made = make(`h${Math.min(head[1].length + 1, 4)}`);
      addInline(made, head[2]);
      parts.push(made);
      place++;
    } else if (isTable(line, lines[place + 1])) {
      const rows = [cellsOf(line)];
      for (place += 2; place < lines.length && lines[place].includes("|"); place++)
        rows.push(cellsOf(lines[place]));
      parts.push(table(rows));
    } else if (/^\s*[-*+]\s+/.test(line)) parts.push(list("ul", /^\s*[-*+]\s+(.*)/));
    else if (/^\s*\d+[.)]\s+/.test(line)) {
      const start = parseInt(line, 10);
      const made = list("ol", /^\s*\d+[.)]\s+(.*)/);
      made.start = start;
      parts.push(made);
    } else if (line.startsWith(">")) {
      const made = make("blockquote");
      addInline(made, take(/^>\s?(.*)/).join("\n"));
      parts.push(made);
    } else if (!line.trim()) place++;
    else {
      const made = make("p");
      take(/^(?!\s*$|\s*```|\s*~~~|#{1,6}\s|\s*[-*+]\s|\s*\d+[.)]\s|>)(.*)/).forEach((each, number) => {
        if (number) made.append(make("br"));
        addInline(made, each);
      });
      if (!made.childNodes.length) made.append(lines[place++]); // fits nothing: as it is
      parts.push(made);
    }
  }
  parent.replaceChildren(...parts);
}

// ---- The server

let key = "";

class Failure extends Error {}

async function call(path, options = {}) {
  const headers = { "Content-Type": "application/json" };
  if (key) headers.Authorization = `Bearer ${key}`;
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("The server cannot be reached. Is it still running?");
  }
  if (answer.status === 401) {
    await askForKey(key ? "This key is wrong." : "");
    return call(path, options);
  }
  if (!answer.ok) {
    const said = await answer.json().catch(() => null);
    throw new Failure(said?.error?.message ?? `The server answered with status ${answer.status}.`);
  }
  return answer;
}

function askForKey(why) {
  if (why) find("ask-why").textContent = why;
  find("key").value = "";
  find("ask").showModal();
  return new Promise((done) => {
    find("ask-form").addEventListener("submit", () => { key = find("key").value.trim(); done(); }, { once: true });
  });
}
find("ask").addEventListener("cancel", (event) => event.preventDefault());
