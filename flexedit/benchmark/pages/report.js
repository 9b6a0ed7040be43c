// Sorts the pictures: by case, or worst first by one metric of one system.

const data = document.getElementById("data");
if (data) {
  const { metrics, rows } = JSON.parse(data.textContent);
  const form = document.querySelector(".controls");
  const cards = document.getElementById("cards");
  const articles = [...cards.children]; // by case

  const sort = () => {
    const { order, system, form: mask } = Object.fromEntries(new FormData(form));
    const values = new Map(
      rows
        .filter((row) => row.system === system && row.form === mask)
        .map((row) => [row.case, row[order]]),
    );
    const metric = metrics[order];
    const badness = (article) => {
      const value = values.get(article.dataset.case);
      if (value === undefined || value === null) return -Infinity; // nothing to be judged by
      return metric.higher ? -value : value;
    };
    const sorted = metric ? [...articles].sort((a, b) => badness(b) - badness(a) || 0) : articles;
    for (const article of sorted) {
      const value = values.get(article.dataset.case);
      const text = metric?.percent ? `${(100 * value).toFixed(0)}` : value?.toFixed(3);
      article.querySelector("output").textContent =
        metric && typeof value === "number" ? `· ${metric.title}: ${text}` : "";
    }
    cards.replaceChildren(...sorted);
  };
  form.addEventListener("change", sort);
  sort(); // a browser may have kept what was chosen before a reload
}
