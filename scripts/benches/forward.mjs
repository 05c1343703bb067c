// What comes in by the first link goes out by the second, through npm's ws from the folder that is named.
import { createRequire } from "node:module";

const { WebSocketServer } = createRequire(`${process.argv[2]}/`)("ws");
const server = new WebSocketServer({ host: "127.0.0.1", port: 0, perMessageDeflate: false });
const links = [];
server.on("connection", (link) => {
  links.push(link);
  link._socket.setNoDelay(true);
  if (links.length === 1) link.on("message", (data, binary) => links[1].send(data, { binary }));
});
server.on("listening", () => console.log(server.address().port));
