import React, {useEffect, useState} from "react";
import {createRoot} from "react-dom/client";

function Tasks() {
  const [tasks, setTasks] = useState([]);
  const [title, setTitle] = useState("");
  const load = () => fetch("/api/tasks/").then(answer => answer.json()).then(setTasks);
  useEffect(() => { load(); }, []);
  const add = async event => {
    event.preventDefault();
    await fetch("/api/tasks/", {
      method: "POST",
      headers: {"Content-Type": "application/json"},
      body: JSON.stringify({title}),
    });
    setTitle("");
    await load();
  };
  return (
    <main>
      <h1>Tasks</h1>
      <form onSubmit={add}>
        <input aria-label="A new task" value={title} onChange={event => setTitle(event.target.value)} />
        <button>Add</button>
      </form>
      <ul>{tasks.map(task => <li key={task.id}>{task.title}</li>)}</ul>
    </main>
  );
}

createRoot(document.getElementById("root")).render(<Tasks />);
