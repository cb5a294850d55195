// A line to take away. It may hold names from a trace: data, which only ever becomes textContent.
const SAID_MS = 1600;

export default function ({ parentElement, data }) {
  const code = parentElement.querySelector("code");
  const button = parentElement.querySelector("button");
  code.textContent = data;
  button.onclick = async () => {
    button.textContent = (await copied(code, data)) ? "Copied" : "Press Ctrl+C";
    setTimeout(() => (button.textContent = "Copy"), SAID_MS);
  };
}

// Where the page came over plain HTTP from another machine, browsers give no clipboard: the text is marked instead.
async function copied(code, text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    getSelection().selectAllChildren(code);
    return false;
  }
}
