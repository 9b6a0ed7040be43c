// Sorts the pictures: by case, or worst first by one metric of one system.

const { metrics, rows } = JSON.parse(document.getElementById("data").textContent);
const form = document.querySelector(".controls");
const cards = document.getElementById("cards");
const articles = [...cards.children]; // by case

function sort() {
  const { order, system, form: mask } = Object.fromEntries(new FormData(form));
  const chosen = rows.filter((row) => row.system === system && row.form === mask);
  const values = new Map(chosen.map((row) => [row.case, row[order]]));
  const metric = metrics[order];
  const badness = (article) => {
    const value = values.get(article.dataset.case) ?? null;
    if (!metric || value === null) return -Infinity; // nothing to be judged by
    return metric.higher ? -value : value;
  };
  for (const article of articles) {
    const value = values.get(article.dataset.case);
    const text = metric?.percent ? `${(100 * value).toFixed(0)}` : value?.toFixed(3);
    article.querySelector("output").textContent =
      metric && typeof value === "number" ? `· ${metric.title}: ${text}` : "";
  }
  cards.replaceChildren(...[...articles].sort((a, b) => badness(b) - badness(a) || 0));
}

form.addEventListener("change", sort);
sort(); // a browser may have kept what was chosen before a reload
