"use strict";

for (const form of document.querySelectorAll("form")) {
  const body = form.querySelector("textarea");
  const [sent, answer] = form.querySelectorAll("pre");

  for (const button of form.querySelectorAll(".example")) {
    button.addEventListener("click", () => { body.value = button.value; });
  }

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const { method, path } = form.dataset;
    const changed = [...form.querySelectorAll("input")].filter((input) => input.checked !== input.defaultChecked);
    const chosen = changed.map((input) => `${input.name}=${input.checked}`).join("&");
    const headers = {};
    if (body) headers["Content-Type"] = "application/json";
    const key = document.getElementById("key")?.value;
    if (key) headers["X-API-Key"] = key;

    // beside /docs, wherever a proxy shows that
    const url = new URL(path.slice(1) + (chosen && `?${chosen}`), location.href);
    const shown = Object.entries(headers).map(([name, value]) => ` -H '${name}: ${name === "X-API-Key" ? "…" : value}'`);
    const data = body ? ` -d '${body.value.replaceAll("'", "'\\''")}'` : "";
    sent.textContent = `curl -X ${method} '${url}'${shown.join("")}${data}`;
    sent.hidden = answer.hidden = false;
    try {
      const response = await fetch(url, { method, headers, body: body?.value });
      const text = await response.text();
      const json = (response.headers.get("content-type") ?? "").startsWith("application/json");
      const model = response.headers.get("x-model");
      const head = model ? `${response.status}\nX-Model: ${model}` : `${response.status}`;
      answer.textContent = `${head}\n${json ? JSON.stringify(JSON.parse(text), null, 1) : text}`;
    } catch (error) {
      answer.textContent = `no answer: ${error.message}`;
    }
  });
}
