// How many tokens a prompt has, asked for when the typing pauses.

const PAUSE_MS = 300;

export function mount({ element, props, server, watch }) {
  const output = element.querySelector(".em-tokens");
  let timer = 0;
  let asked = 0;

  const count = async () => {
    const text = props.value ?? "";
    const turn = ++asked;
    const [tokens, limit] = text ? await server.count_tokens(text) : [0, 75];
    if (turn !== asked) return; // a later text has been asked for
    output.textContent = `${tokens}/${limit}`;
  };

  watch("value", () => {
    clearTimeout(timer);
    timer = setTimeout(() => count().catch(() => (output.textContent = "")), PAUSE_MS);
  });
  count();
}

export const same = (text) => text;
