import express from 'express';

const app = express();
let count = 0;
app.get('/', (_request, response) => response.json({ message: 'Hello from Node', count: ++count }));
app.listen(3000, () => console.log('listening on 3000'));
